"""Activations to 8 bits, a scale per token and group: as they are, after a norm, or gated.

    codes   int8  [tokens, in]       round to nearest even of  value * 127 / largest |value| of its group
    scales  float [groups, tokens]   largest / 127; NaN where a value of the group is not finite

The norm and the gate are rows.py's, computed in the same kernel, so that their results never go to memory.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from guardhouse.ops.gpu.rows import NORM_COLUMNS, NORM_WARPS, gated, norm_scale

GROUPS_AT_ONCE = 8
FEW_TOKENS, TOKENS = 16, 128  # that w4a8.py's tiles divide
PLAIN, NORMED, GATED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves the rounded integer in the low mantissa bits
ROUNDER_BITS = tl.constexpr(0x4B400000)  # its own
TINY = tl.constexpr(7.888609052210118e-31)  # 2^-100: a group below it counts as zero
FINITE_BITS = tl.constexpr(0x7F800000)


@dataclass(frozen=True, slots=True)
class Quantized:
    """See this file's head. Padded: to 16 tokens, or to a multiple of 128; padding is not written."""

    num_tokens: int
    codes: Tensor
    scales: Tensor


@triton.jit
def _quantize(
    x, norm, eps, codes, scales, padded_tokens, num_groups,
    source: tl.constexpr, group_size: tl.constexpr, groups_at_once: tl.constexpr,
):  # fmt: skip
    """Some of a token's groups; all of them, if there is a norm."""
    token = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * groups_at_once + tl.arange(0, groups_at_once)
    is_group = groups < num_groups
    mask = is_group[:, None]
    width = num_groups * group_size
    columns = groups[:, None] * group_size + tl.arange(0, group_size)[None, :]
    if source == GATED:
        gate = tl.load(x + token * 2 * width + columns, mask=mask, other=0)
        values = gated(gate, tl.load(x + token * 2 * width + width + columns, mask=mask, other=0))
    else:
        values = tl.load(x + token * width + columns, mask=mask, other=0)
    if source == NORMED:
        values = values * norm_scale(values, width, eps) * tl.load(norm + columns, mask=mask, other=0)
    bits = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)  # as integers, NaN outranks every number
    largest = bits.to(tl.float32, bitcast=True)
    is_finite = bits < FINITE_BITS
    is_used = is_finite & (largest >= TINY)
    inverse = tl.where(is_used, 127.0 / tl.where(is_used, largest, 1.0), 0.0)
    rounded = tl.where(is_used[:, None], values, 0.0) * inverse[:, None] + ROUNDER
    code = rounded.to(tl.int32, bitcast=True) - ROUNDER_BITS
    tl.store(codes + token * width + columns, code.to(tl.int8), mask=mask)
    where = groups.to(tl.int64) * padded_tokens + token
    scale = tl.where(is_finite, tl.where(is_used, largest / 127.0, 0.0), float("nan"))
    tl.store(scales + where, scale, mask=is_group)


def quantize(x: Tensor, group_size: int) -> Quantized:
    """float32 [tokens, in]."""
    return _launch(x, group_size, x.shape[1], PLAIN)


def quantize_gated(gate_up: Tensor, group_size: int) -> Quantized:
    """float16 or float32 [tokens, 2 * in]: silu(gate) * up."""
    return _launch(gate_up, group_size, gate_up.shape[1] // 2, GATED)


def quantize_normed(x: Tensor, norm: Tensor, eps: float) -> Quantized:
    """float32 [tokens, in], with groups of NORM_COLUMNS: then the norm's sum is that of rows.rms_norm, bit for bit."""
    return _launch(x, NORM_COLUMNS, x.shape[1], NORMED, (norm, eps))


def _launch(
    x: Tensor, group_size: int, width: int, source: tl.constexpr, norm: tuple[Tensor, float] | None = None
) -> Quantized:
    num_tokens, num_groups = len(x), width // group_size
    padded = FEW_TOKENS if num_tokens <= FEW_TOKENS else triton.cdiv(num_tokens, TOKENS) * TOKENS
    codes = torch.empty((padded, width), dtype=torch.int8, device=x.device)
    scales = torch.empty((num_groups, padded), dtype=torch.float32, device=x.device)
    weight, eps = (x, 0.0) if norm is None else norm
    at_once = GROUPS_AT_ONCE if norm is None else triton.next_power_of_2(num_groups)
    _quantize[(num_tokens, triton.cdiv(num_groups, at_once))](
        x, weight, eps, codes, scales, padded, num_groups,
        source=source.value, group_size=group_size, groups_at_once=at_once,
        num_warps=4 if norm is None else NORM_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    return Quantized(num_tokens, codes, scales)
