"""A model of random weights, made on the device that will run it: no checkpoint is written, read or packed.

Its speed and memory are those of a checkpoint of that shape; its verdicts mean nothing. Weights are drawn as
make_checkpoint.py draws them.

Knows: how ops/cuda.py lays 4-bit and dense weights out on the device.
Never knows: requests, what is measured.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from guardhouse.model.llama import Layer, Llama, Weights
from guardhouse.model.llama_config import LlamaConfig
from guardhouse.model.rope import rope_tables
from guardhouse.ops.cuda import CudaOps
from guardhouse.ops.gpu.w4a8 import TILE_OUT, padded_outputs
from guardhouse.ops.table import PackedLinear, RopeTable


def random_llama(config: LlamaConfig, ops: CudaOps, window: int, device: str = "cuda", group_size: int = 128) -> Llama:
    """A 4-bit Llama of this shape. `window`: tokens of the longest sequence."""
    generator = torch.Generator(device).manual_seed(0)
    int4 = partial(random_linear, generator, group_size=group_size)
    hidden, heads = config.hidden_size, config.num_heads * config.head_dim
    widths = {
        "qkv": (hidden, heads + 2 * config.num_kv_heads * config.head_dim),
        "output": (heads, hidden),
        "gate_up": (hidden, 2 * config.intermediate_size),
        "down": (config.intermediate_size, hidden),
    }
    ones = torch.ones(hidden, device=device)
    layers = [
        Layer(ones, ones, {name: int4(*shape) for name, shape in widths.items()}) for _ in range(config.num_layers)
    ]
    embedding, head = (_random_dense(generator, hidden, config.vocab_size) for _ in range(2))
    cos, sin = rope_tables(config.head_dim, config.rope_theta, config.rope_scaling, window)
    weights = Weights(embedding, layers, ones, head, RopeTable(ops.array(cos), ops.array(sin)))
    return Llama(config, ops, weights, window)


def random_linear(generator: torch.Generator, num_inputs: int, num_outputs: int, group_size: int = 128) -> PackedLinear:
    """4-bit weights as CudaOps would have placed them on the generator's device."""
    num_groups, padded, tile = num_inputs // group_size, padded_outputs(num_outputs), int(TILE_OUT.value)
    draw = partial(torch.randint, generator=generator, device=generator.device, dtype=torch.uint8)
    shape = (padded // tile, num_groups, tile)
    scales = torch.empty(shape, device=generator.device).uniform_(0.75, 1.25, generator=generator) * num_inputs**-0.5
    halves = (scales * 0.25).half().view(torch.int16).int()  # positive: no sign to spread
    affine = halves | (draw(7, 9, shape).int() << 16)
    arrays: dict[str, Tensor] = {"codes": draw(0, 256, (*shape, group_size // 2)), "affine": affine}
    return PackedLinear("int4", num_inputs, num_outputs, group_size, arrays)


def _random_dense(generator: torch.Generator, num_inputs: int, num_outputs: int) -> PackedLinear:
    shape = (num_outputs, num_inputs)
    weight = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float16)
    return PackedLinear("dense", num_inputs, num_outputs, 0, {"weight": weight * np.float16(num_inputs**-0.5).item()})
