"""4-bit weights times 8-bit activations on tensor cores: exact integers within a group, floats in a fixed order.

    codes    uint8 [out, in / 2]     group g of an output: bytes g*G/2 .. ; byte j holds input g*G + j in its low nibble and
                                     input g*G + G/2 + j in its high one: two products per group, no shuffles
    zeros    uint8 [groups, out]     subtracted before the product: -15 .. 15 is exact in int8
    scales   float [groups, out]
    x        int8  [tokens, in], and one float scale per token and group

    result[t, o] = sum over parts of (sum over the part's groups of  int_sum * (x_scale * scale)), then bias

A part is a run of groups; its length depends on the weight's shape alone. Few tokens: one program per part, then the parts
are added in order. Many tokens: one program walks all parts. Integer sums are exact and the float ones happen in the same
order, so that a row's bits depend neither on the tile nor on what else is in the batch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP_SIZES = (64, 128)  # half a group is the depth of one product: at least 32 for int8
BLOCK_OUT = 64
FEW_TOKENS = 16
PROGRAMS_WANTED = 264  # two per multiprocessor of an H100 or H200
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves the rounded integer in the low mantissa bits
TINY = tl.constexpr(7.888609052210118e-31)  # 2^-100: a group below it counts as zero
FINITE_BITS = tl.constexpr(0x7F800000)


@triton.jit
def _quantize(x, codes, scales, num_groups, group_size: tl.constexpr):
    """One token's group: scale = max |x| / 127, code = round to nearest even. NaN or infinity gives the scale NaN."""
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = (token * num_groups + group) * group_size + tl.arange(0, group_size)
    values = tl.load(x + place)
    bits = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)  # as integers, NaN outranks every number
    largest = bits.to(tl.float32, bitcast=True)
    is_finite = bits < FINITE_BITS
    is_used = is_finite & (largest >= TINY)
    inverse = tl.where(is_used, 127.0 / tl.where(is_used, largest, 1.0), 0.0)
    rounded = tl.where(is_used, values, 0.0) * inverse + ROUNDER
    tl.store(codes + place, (rounded.to(tl.int32, bitcast=True) & 0xFF).to(tl.int8))
    scale = tl.where(is_finite, tl.where(is_used, largest / 127.0, 0.0), float("nan"))
    tl.store(scales + token * num_groups + group, scale)


@triton.jit
def _sum_part(
    x, x_scales, codes, zeros, scales, first_group, end_group, num_groups, num_outputs,
    tokens, is_token, outputs, is_output, half: tl.constexpr, block_tokens: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """float32 [tokens, outputs]: the groups first_group .. end_group - 1, added in order."""
    depth = tl.arange(0, half)
    x_row = x + tokens[:, None].to(tl.int64) * (num_groups * 2 * half) + depth[None, :]
    code_row = codes + outputs[:, None].to(tl.int64) * (num_groups * half) + depth[None, :]
    total = tl.zeros((block_tokens, block_out), dtype=tl.float32)
    for group in range(first_group, end_group):
        low_x = tl.load(x_row + group * 2 * half, mask=is_token[:, None], other=0)
        high_x = tl.load(x_row + group * 2 * half + half, mask=is_token[:, None], other=0)
        pair = tl.load(code_row + group * half, mask=is_output[:, None], other=0)
        zero = tl.load(zeros + group * num_outputs + outputs, mask=is_output, other=0).to(tl.int8)
        low = (pair & 15).to(tl.int8) - zero[:, None]
        high = (pair >> 4).to(tl.int8) - zero[:, None]
        sums = tl.dot(low_x, tl.trans(low), out_dtype=tl.int32)
        sums = tl.dot(high_x, tl.trans(high), acc=sums, out_dtype=tl.int32)
        scale = tl.load(scales + group * num_outputs + outputs, mask=is_output, other=0).to(tl.float32)
        x_scale = tl.load(x_scales + tokens.to(tl.int64) * num_groups + group, mask=is_token, other=0)
        total += sums.to(tl.float32) * (x_scale[:, None] * scale[None, :])
    return total


@triton.jit
def _multiply(
    x, x_scales, codes, zeros, scales, bias, y, num_tokens, num_outputs, num_groups, groups_per_part,
    has_bias: tl.constexpr, is_split: tl.constexpr,
    half: tl.constexpr, block_tokens: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """One tile of y [tokens, out]; split: one tile of one part, y being [parts, tokens, out]."""
    outputs = tl.program_id(0) * block_out + tl.arange(0, block_out)
    tokens = tl.program_id(1) * block_tokens + tl.arange(0, block_tokens)
    is_token, is_output = tokens < num_tokens, outputs < num_outputs
    place = tokens[:, None].to(tl.int64) * num_outputs + outputs[None, :]
    is_place = is_token[:, None] & is_output[None, :]
    if is_split:
        first = tl.program_id(2) * groups_per_part
        total = _sum_part(
            x, x_scales, codes, zeros, scales, first, min(first + groups_per_part, num_groups), num_groups, num_outputs,
            tokens, is_token, outputs, is_output, half, block_tokens, block_out,
        )  # fmt: skip
        y += tl.program_id(2).to(tl.int64) * num_tokens * num_outputs
    else:
        total = tl.zeros((block_tokens, block_out), dtype=tl.float32)
        for first in range(0, num_groups, groups_per_part):
            total += _sum_part(
                x, x_scales, codes, zeros, scales, first, min(first + groups_per_part, num_groups), num_groups,
                num_outputs, tokens, is_token, outputs, is_output, half, block_tokens, block_out,
            )  # fmt: skip
        if has_bias:
            total += tl.load(bias + outputs, mask=is_output, other=0)[None, :]
    tl.store(y + place, total, mask=is_place)


@triton.jit
def _add_parts(parts, bias, y, num_parts, size, num_outputs, has_bias: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_place = place < size
    total = tl.zeros((block,), dtype=tl.float32)
    for part in range(num_parts):
        total += tl.load(parts + part * size + place, mask=is_place, other=0)
    if has_bias:
        total += tl.load(bias + place % num_outputs, mask=is_place, other=0)
    tl.store(y + place, total, mask=is_place)


def groups_per_part(num_groups: int, num_outputs: int) -> int:
    """So many that few tokens still make enough programs; at least four, so that the parts' own traffic stays small."""
    num_tiles = triton.cdiv(num_outputs, BLOCK_OUT)
    num_parts = max(1, min(triton.cdiv(PROGRAMS_WANTED, num_tiles), num_groups // 4))
    return int(triton.cdiv(num_groups, num_parts))


def quantize(x: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """float32 [tokens, in] -> int8 [tokens, in], float32 [tokens, groups]."""
    num_tokens, width = x.shape
    num_groups = width // group_size
    codes = torch.empty((num_tokens, width), dtype=torch.int8, device=x.device)
    scales = torch.empty((num_tokens, num_groups), dtype=torch.float32, device=x.device)
    _quantize[(num_tokens, num_groups)](x, codes, scales, num_groups, group_size=group_size, num_warps=1)
    return codes, scales


def multiply(
    x: Tensor, weight: dict[str, Tensor], group_size: int, num_outputs: int, *, few_tokens: int = FEW_TOKENS
) -> Tensor:
    """float32 [tokens, in] -> float32 [tokens, out]. `few_tokens`: up to how many the parts run side by side."""
    codes, x_scales = quantize(x, group_size)
    num_tokens, num_groups = x_scales.shape
    bias = weight.get("bias")
    y = torch.empty((num_tokens, num_outputs), dtype=torch.float32, device=x.device)
    per_part = groups_per_part(num_groups, num_outputs)
    num_parts = triton.cdiv(num_groups, per_part)
    is_split = num_tokens <= few_tokens and num_parts > 1
    target = y.new_empty((num_parts, num_tokens, num_outputs)) if is_split else y
    block_tokens = 16 if num_tokens <= 16 else 64
    grid = (triton.cdiv(num_outputs, BLOCK_OUT), triton.cdiv(num_tokens, block_tokens), num_parts if is_split else 1)
    _multiply[grid](
        codes, x_scales, weight["codes"], weight["zeros"], weight["scales"], y if bias is None else bias, target,
        num_tokens, num_outputs, num_groups, per_part,
        has_bias=bias is not None, is_split=is_split,
        half=group_size // 2, block_tokens=block_tokens, block_out=BLOCK_OUT, num_warps=4, num_stages=3,
    )  # fmt: skip
    if is_split:
        parts = (target, y if bias is None else bias, y, num_parts, y.numel(), num_outputs)
        _add_parts[(triton.cdiv(y.numel(), 1024),)](*parts, has_bias=bias is not None, block=1024)
    return y
