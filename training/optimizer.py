"""How weights move: Muon for the matrices, Adam for the rest, one schedule for both.

Knows: parameters, steps.
Never knows: data, losses.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from training.model import Llama

WARMUP_STEPS = 30
MOMENTUM = 0.95
DECAY = 0.05
NS_STEPS = 4
NS_COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the published quintic
HEAD_RATE = 2e-3


class Muon:
    """Momentum whose matrices are made nearly orthogonal before they are applied (Jordan et al., 2024).

    torch.optim.Muon computes in bfloat16, which this project's CPUs emulate: four times slower than all else in a step.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], rate: float) -> None:
        self._rate = rate
        self._momenta = {matrix: torch.zeros_like(matrix) for matrix in matrices}

    @torch.no_grad()
    def step(self, share: float) -> None:
        """A step's root mean square is about 0.2 of the rate, as Adam's would be."""
        rate = self._rate * share
        for matrix, momentum in self._momenta.items():
            if matrix.grad is None:  # queries and keys have no part in bags
                continue
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            direction = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
            matrix.mul_(1 - rate * DECAY).add_(direction, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)
            matrix.grad = None


class Optimizer:
    """Both optimisers behind one step. `heads`: layers that are thrown away after training."""

    def __init__(self, model: Llama, heads: Sequence[nn.Module], matrix_rate: float, table_rate: float) -> None:
        table = model.model["embed_tokens"].weight
        self._norms = [parameter for name, parameter in model.named_parameters() if "norm" in name]
        self._norms += [parameter for head in heads for parameter in head.parameters()]
        self._muon = Muon([parameter for name, parameter in model.named_parameters() if "proj" in name], matrix_rate)
        settings = [{"params": [table], "lr": table_rate}, {"params": self._norms, "lr": HEAD_RATE}]
        self._adam = torch.optim.AdamW(settings, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self._rates = (table_rate, HEAD_RATE)

    def step(self, share: float) -> None:
        """One step at this share of the full rates; gradients are used up."""
        torch.nn.utils.clip_grad_norm_(self._norms, 1.0)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._muon.step(share)


def orthogonal(matrix: Tensor) -> Tensor:
    """Newton-Schulz: every singular value towards 1."""
    a, b, c = NS_COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(NS_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def rate_share(step: int, num_steps: int, num_cooling: int) -> float:
    """Warm-up, a plateau, and a straight line to zero over the last `num_cooling` steps."""
    return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, (num_steps - step) / num_cooling))
