"""What happens row by row: RMS norm, rotation with the write to the cache, SiLU times up.

Each is one kernel, so that a row is read and written once. A row's sums run over its own values in a fixed tree.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(x, weight, y, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0)
    mean_square = tl.sum(values * values, axis=0) / width
    scale = 1.0 / tl.sqrt(mean_square + eps)
    tl.store(y + row * width + columns, values * scale * tl.load(weight + columns, mask=inside, other=0), mask=inside)


@triton.jit
def _rope_and_store(
    qkv, cos, sin, positions, slots, keys, values, num_heads, num_kv_heads, block_size,
    half: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One token's one head: queries and keys are rotated in place; keys and values go to the cache as float16."""
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width = (num_heads + 2 * num_kv_heads) * 2 * half
    pair = tl.arange(0, block)
    inside = pair < half
    row = qkv + token * width + head * 2 * half
    first = tl.load(row + pair, mask=inside, other=0)
    second = tl.load(row + half + pair, mask=inside, other=0)
    is_rotated = head < num_heads + num_kv_heads
    if is_rotated:
        position = tl.load(positions + token).to(tl.int64)
        c = tl.load(cos + position * half + pair, mask=inside, other=0)
        s = tl.load(sin + position * half + pair, mask=inside, other=0)
        turned = first * c - second * s
        second = second * c + first * s
        first = turned
        tl.store(row + pair, first, mask=inside)
        tl.store(row + half + pair, second, mask=inside)
    if head >= num_heads:
        slot = tl.load(slots + token).to(tl.int64)
        kv_head = (head - num_heads) % num_kv_heads
        place = (((slot // block_size) * num_kv_heads + kv_head) * block_size + slot % block_size) * 2 * half
        target = keys if is_rotated else values
        tl.store(target + place + pair, first.to(tl.float16), mask=inside)
        tl.store(target + place + half + pair, second.to(tl.float16), mask=inside)


@triton.jit
def _silu_mul(gate_up, y, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gate = tl.load(gate_up + row * 2 * width + columns, mask=inside, other=0)
    up = tl.load(gate_up + row * 2 * width + width + columns, mask=inside, other=0)
    tl.store(y + row * width + columns, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[tokens, width] -> the same, float32."""
    num_tokens, width = x.shape
    y = torch.empty_like(x)
    _rms_norm[(num_tokens,)](x, weight, y, width, eps, block=triton.next_power_of_2(width), num_warps=8)
    return y


def rope_and_store(
    qkv: Tensor, rope: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor], cache: tuple[Tensor, Tensor], num_heads: int
) -> None:
    """`rope`: cos and sin [positions, half]; `batch`: positions and slots [tokens]; `cache`: one layer's keys and values."""
    keys, values = cache
    _, num_kv_heads, block_size, head_dim = keys.shape
    grid = (len(qkv), num_heads + 2 * num_kv_heads)
    half = head_dim // 2
    sizes = (num_heads, num_kv_heads, block_size)
    _rope_and_store[grid](
        qkv, *rope, *batch, keys, values, *sizes, half=half, block=triton.next_power_of_2(half), num_warps=1
    )


def silu_mul(gate_up: Tensor) -> Tensor:
    """[tokens, 2 * width] -> [tokens, width]."""
    num_tokens, width = len(gate_up), gate_up.shape[1] // 2
    y = torch.empty((num_tokens, width), dtype=torch.float32, device=gate_up.device)
    _silu_mul[(num_tokens, triton.cdiv(width, 1024))](gate_up, y, width, block=1024)
    return y
