"""What happens row by row: RMS norm, rotation with the write to the cache, SiLU times up.

Each is one kernel, so that a row is read and written once. A row's sums run over its own values in a fixed tree, and no
multiplication is fused with an addition behind our back.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

NORM_COLUMNS, NORM_WARPS = 128, 8  # how a norm's sum is cut: the same wherever it is computed
HEADS_AT_ONCE = 8


@triton.jit
def norm_scale(values, width, eps):
    """What a row, cut into [parts, columns] and padded with zeros, is multiplied by."""
    mean_square = tl.sum(tl.sum(values * values, axis=1), axis=0) / width
    return 1.0 / tl.sqrt(mean_square + eps)


@triton.jit
def gated(gate, up):
    """silu(gate) * up, in float32"""
    gate, up = gate.to(tl.float32), up.to(tl.float32)
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _rms_norm(x, weight, y, width, eps, parts: tl.constexpr, part_columns: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, parts)[:, None] * part_columns + tl.arange(0, part_columns)[None, :]
    inside = columns < width
    values = tl.load(x + row * width + columns, mask=inside, other=0)
    weights = tl.load(weight + columns, mask=inside, other=0)
    tl.store(y + row * width + columns, values * norm_scale(values, width, eps) * weights, mask=inside)


@triton.jit
def _rope_and_store(
    qkv, queries, query_scale, cos, sin, positions, slots, keys, values, num_heads, num_kv_heads, block_size,
    half: tl.constexpr, pairs: tl.constexpr, heads_at_once: tl.constexpr,
):  # fmt: skip
    """Some of a token's heads: queries, or keys and values, as float16.

    A key whose value is not finite is cached as NaN beside a value of zeros: whoever may see the token gets NaN scores, and
    whoever may not multiplies the zeros by zero. So attention need not look at values. A negative slot is padding.
    """
    token = tl.program_id(0).to(tl.int64)
    num_query_programs = tl.cdiv(num_heads, heads_at_once)
    is_query = tl.program_id(1) < num_query_programs
    first_head = tl.where(is_query, tl.program_id(1), tl.program_id(1) - num_query_programs) * heads_at_once
    heads = first_head + tl.arange(0, heads_at_once)
    pair = tl.arange(0, pairs)
    inside = (heads < tl.where(is_query, num_heads, num_kv_heads))[:, None] & (pair < half)[None, :]
    width = (num_heads + 2 * num_kv_heads) * 2 * half
    row = qkv + token * width + (tl.where(is_query, 0, num_heads) + heads[:, None]) * 2 * half + pair[None, :]
    first = tl.load(row, mask=inside, other=0).to(tl.float32)
    second = tl.load(row + half, mask=inside, other=0).to(tl.float32)
    position = tl.load(positions + token).to(tl.int64)
    c = tl.load(cos + position * half + pair, mask=pair < half, other=0)[None, :]
    s = tl.load(sin + position * half + pair, mask=pair < half, other=0)[None, :]
    turned, other = first * c - second * s, second * c + first * s
    if is_query:
        place = queries + (token * num_heads + heads[:, None]) * 2 * half + pair[None, :]
        tl.store(place, (turned * query_scale).to(tl.float16), mask=inside)
        tl.store(place + half, (other * query_scale).to(tl.float16), mask=inside)
    else:
        slot = tl.load(slots + token).to(tl.int64)
        if slot >= 0:
            value = row + num_kv_heads * 2 * half
            low = tl.load(value, mask=inside, other=0).to(tl.float16)
            high = tl.load(value + half, mask=inside, other=0).to(tl.float16)
            is_finite = (tl.abs(low) < float("inf")) & (tl.abs(high) < float("inf"))
            is_spoilt = (tl.max(tl.where(is_finite, 0, 1), axis=1) > 0)[:, None]
            place = ((slot // block_size) * num_kv_heads + heads[:, None]) * block_size + slot % block_size
            place = place * 2 * half + pair[None, :]
            tl.store(keys + place, tl.where(is_spoilt, float("nan"), turned).to(tl.float16), mask=inside)
            tl.store(keys + place + half, tl.where(is_spoilt, float("nan"), other).to(tl.float16), mask=inside)
            tl.store(values + place, tl.where(is_spoilt, 0.0, low).to(tl.float16), mask=inside)
            tl.store(values + place + half, tl.where(is_spoilt, 0.0, high).to(tl.float16), mask=inside)


@triton.jit
def _silu_mul(gate_up, y, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * block + tl.arange(0, block)
    inside = columns < width
    gate = tl.load(gate_up + row * 2 * width + columns, mask=inside, other=0)
    up = tl.load(gate_up + row * 2 * width + width + columns, mask=inside, other=0)
    tl.store(y + row * width + columns, gated(gate, up), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[tokens, width] -> the same, float32."""
    num_tokens, width = x.shape
    y = torch.empty_like(x)
    parts = triton.next_power_of_2(triton.cdiv(width, NORM_COLUMNS))
    sizes = {"parts": parts, "part_columns": NORM_COLUMNS}
    _rms_norm[(num_tokens,)](x, weight, y, width, eps, **sizes, num_warps=NORM_WARPS, enable_fp_fusion=False)
    return y


def rope_and_store(
    qkv: Tensor,
    rope: tuple[Tensor, Tensor],
    batch: tuple[Tensor, Tensor],
    cache: tuple[Tensor, Tensor],
    num_heads: int,
    query_scale: float,
) -> Tensor:
    """The rotated queries times `query_scale`, float16 [tokens, heads * head_dim].

    `qkv`: float16 or float32; `rope`: cos and sin [positions, half]; `batch`: positions and slots [tokens]; `cache`: one
    layer's keys and values.
    """
    keys, values = cache
    _, num_kv_heads, block_size, head_dim = keys.shape
    half = head_dim // 2
    queries = torch.empty((len(qkv), num_heads * head_dim), dtype=torch.float16, device=qkv.device)
    programs = triton.cdiv(num_heads, HEADS_AT_ONCE) + triton.cdiv(num_kv_heads, HEADS_AT_ONCE)
    _rope_and_store[(len(qkv), programs)](
        qkv, queries, query_scale, *rope, *batch, keys, values, num_heads, num_kv_heads, block_size,
        half=half, pairs=triton.next_power_of_2(half), heads_at_once=HEADS_AT_ONCE, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return queries


def silu_mul(gate_up: Tensor) -> Tensor:
    """float16 or float32 [tokens, 2 * width] -> float32 [tokens, width]."""
    num_tokens, width = len(gate_up), gate_up.shape[1] // 2
    y = torch.empty((num_tokens, width), dtype=torch.float32, device=gate_up.device)
    grid = (num_tokens, triton.cdiv(width, 1024))
    _silu_mul[grid](gate_up, y, width, block=1024, num_warps=4, enable_fp_fusion=False)
    return y
