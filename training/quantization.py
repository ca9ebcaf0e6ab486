"""Four bits while training: the rounding of guardhouse.model.awq with a straight-through gradient.

Knows: groups, scales, zeros.
Never knows: layers, files.
"""

import torch
from torch import Tensor

from training.model import Llama

GROUP_SIZE = 64  # divides 256 and 704
MAX_CODE = 15


def round_to_four_bits(weight: Tensor) -> Tensor:
    """[out, in] -> what quantize_rtn would keep of it; the gradient passes as if nothing had happened."""
    with torch.no_grad():
        groups = weight.view(len(weight), -1, GROUP_SIZE)
        low = groups.amin(2, keepdim=True).clamp_max(0.0)
        high = groups.amax(2, keepdim=True).clamp_min(0.0)
        scales = ((high - low) / MAX_CODE).clamp_min(1e-5).half().float()
        zeros = (-low / scales).round().clamp(0, MAX_CODE)
        codes = (groups / scales).round().add(zeros).clamp(0, MAX_CODE)
        rounded = ((codes - zeros) * scales).view_as(weight)
    return weight + (rounded - weight).detach()


def train_in_four_bits(model: Llama) -> None:
    """From now on every linear of the decoder is seen through the rounding."""
    for linear in model.linears().values():
        linear.weight_map = round_to_four_bits


def show_all_bits(model: Llama) -> None:
    """Undo train_in_four_bits."""
    for linear in model.linears().values():
        linear.weight_map = None
