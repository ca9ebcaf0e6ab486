"""4-bit weights times 8-bit activations on tensor cores: exact integers within a group, floats in a fixed order.

    codes    uint8 [out / 64, groups, 64, G / 2]   a tile's bytes lie side by side; byte j of a group holds input j in its
                                                   low nibble, input G/2 + j in its high one: two products, no shuffles
    zeros    uint8 [groups, out]                   outputs padded to a multiple of 64 here and below
    scales   float [groups, out]
    x        int8  [tokens, in], scales and sums of codes [groups, tokens], from activations.py: padded to whole tiles,
             so that nothing need be masked; what padding holds goes to results that are not stored

    result[t, o] = bias + sum over parts of sum over a part's groups of  (codes . x - zero * x_sum) * (scale * x_scale)

A part is a run of groups; its length depends on the weight's shape alone. Few tokens: one program per part, then the parts
are added in order. Many tokens: one program walks all parts. What is in brackets is below 2^24, so exact in integers and in
floats alike, and the float sums happen in the same order with the same roundings (fused operations are written out, none
are left to the compiler): a row's bits depend neither on the tile nor on what else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from guardhouse.ops.gpu.activations import FEW_TOKENS, Quantized

GROUP_SIZES = (64, 128)  # half a group is the depth of one product: at least 32 for int8
TILE_OUT = tl.constexpr(64)  # outputs whose codes lie side by side
IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # it knows no machine code
PROGRAMS_WANTED = 264  # two per multiprocessor of an H100 or H200


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's share of the result, and how it is computed."""

    outputs: int  # a multiple of 64
    tokens: int
    num_warps: int
    num_stages: int  # groups on their way from memory


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is cut. It changes the time, never a bit."""

    tile: Tile
    is_split: bool  # the parts side by side, where there are several


# Few tokens are bound by the weights' bytes: many small programs, deep pipelines. Many are bound by the products: each byte
# is used as often as registers allow, and a second sum (weights in several parts) takes registers too. None of these spills:
# tests/ops/test_cuda_compiled.py has them compiled.
SOME_TOKENS = 256
FEW, SOME, MANY, MANY_IN_PARTS = (
    Tile(64, FEW_TOKENS, 4, 5),
    Tile(64, 64, 4, 3),
    Tile(128, 128, 8, 3),
    Tile(128, 64, 8, 3),
)


@triton.jit
def _unpack(pair):
    """The codes in the low and in the high nibbles."""
    if IS_INTERPRETED:
        low, high = (pair & 15).to(tl.int8), (pair >> 4).to(tl.int8)
    else:  # the same, four bytes to an instruction; left to the compiler it is 134 of a group's 302 instructions
        low = tl.inline_asm_elementwise("and.b32 $0, $1, 0x0F0F0F0F;", "=r,r", [pair], tl.int8, is_pure=True, pack=4)
        high = tl.inline_asm_elementwise(
            "{ .reg .b32 t; shr.u32 t, $1, 4; and.b32 $0, t, 0x0F0F0F0F; }",
            "=r,r",
            [pair],
            tl.int8,
            is_pure=True,
            pack=4,
        )
    return low, high


@triton.jit
def _sum_part(
    x, x_scales, x_sums, codes, zeros, scales, first_group, end_group, num_groups, padded_tokens, padded_outputs,
    tokens, outputs, half: tl.constexpr, block_tokens: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """float32 [outputs, tokens]: the groups first_group .. end_group - 1, added in order."""
    depth = tl.arange(0, half)
    x_row = x + tokens[None, :].to(tl.int64) * (num_groups * 2 * half) + depth[:, None]
    tile = (outputs // TILE_OUT).to(tl.int64) * num_groups * TILE_OUT + outputs % TILE_OUT
    code_row = codes + tile[:, None] * half + depth[None, :]
    total = tl.zeros((block_out, block_tokens), dtype=tl.float32)
    for group in range(first_group, end_group):
        low_x = tl.load(x_row + group * 2 * half)
        high_x = tl.load(x_row + group * 2 * half + half)
        pair = tl.load(code_row + group * TILE_OUT * half)
        low, high = _unpack(pair)
        sums = tl.dot(low, low_x, out_dtype=tl.int32)
        sums = tl.dot(high, high_x, acc=sums, out_dtype=tl.int32)
        zero = tl.load(zeros + group * padded_outputs + outputs).to(tl.float32)
        scale = tl.load(scales + group * padded_outputs + outputs).to(tl.float32)
        x_sum = tl.load(x_sums + group * padded_tokens + tokens)
        x_scale = tl.load(x_scales + group * padded_tokens + tokens)
        exact = tl.fma(-zero[:, None], x_sum[None, :], sums.to(tl.float32))
        total = tl.fma(exact, scale[:, None] * x_scale[None, :], total)
    return total


@triton.jit(do_not_specialize=["num_tokens"])
def _multiply(
    x, x_scales, x_sums, codes, zeros, scales, bias, y, num_tokens, num_outputs, padded_tokens, padded_outputs, num_groups,
    groups_per_part, has_bias: tl.constexpr, is_added: tl.constexpr, is_split: tl.constexpr, is_whole: tl.constexpr,
    half: tl.constexpr, block_tokens: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    """One tile of y [tokens, out]; split: one tile of one part, y being [parts, tokens, out]; whole: there is one part."""
    outputs = tl.program_id(0) * block_out + tl.arange(0, block_out)
    tokens = tl.program_id(1) * block_tokens + tl.arange(0, block_tokens)
    is_token, is_output = tokens < num_tokens, outputs < num_outputs
    read_outputs = tl.minimum(outputs, padded_outputs - 1)
    if is_split or is_whole:
        first = tl.program_id(2) * groups_per_part
        total = _sum_part(
            x, x_scales, x_sums, codes, zeros, scales, first, min(first + groups_per_part, num_groups), num_groups,
            padded_tokens, padded_outputs, tokens, read_outputs, half, block_tokens, block_out,
        )  # fmt: skip
    else:
        total = tl.zeros((block_out, block_tokens), dtype=tl.float32)
        for first in range(0, num_groups, groups_per_part):
            total += _sum_part(
                x, x_scales, x_sums, codes, zeros, scales, first, min(first + groups_per_part, num_groups), num_groups,
                padded_tokens, padded_outputs, tokens, read_outputs, half, block_tokens, block_out,
            )  # fmt: skip
    place = tokens[None, :].to(tl.int64) * num_outputs + outputs[:, None]
    is_place = is_token[None, :] & is_output[:, None]
    if is_split:
        y += tl.program_id(2).to(tl.int64) * num_tokens * num_outputs
    else:
        if has_bias:
            total += tl.load(bias + outputs, mask=is_output, other=0)[:, None]
        if is_added:
            total += tl.load(y + place, mask=is_place, other=0)
    tl.store(y + place, total, mask=is_place)


@triton.jit
def _add_parts(
    parts, bias, y, num_parts, size, num_outputs, has_bias: tl.constexpr, is_added: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_place = place < size
    total = tl.zeros((block,), dtype=tl.float32)
    for _ in range(num_parts):
        total += tl.load(parts + place, mask=is_place, other=0)
        parts += size
    if has_bias:
        total += tl.load(bias + place % num_outputs, mask=is_place, other=0)
    if is_added:
        total += tl.load(y + place, mask=is_place, other=0)
    tl.store(y + place, total, mask=is_place)


def pack_codes(codes: NDArray[np.uint8], group_size: int) -> NDArray[np.uint8]:
    """[in, out] -> [out tiles, groups, 64, group_size / 2], outputs padded with zeros."""
    num_inputs, num_outputs = codes.shape
    tile = TILE_OUT.value
    padded = np.zeros((padded_outputs(num_outputs), num_inputs), np.uint8)
    padded[:num_outputs] = codes.T
    halves = padded.reshape(-1, tile, num_inputs // group_size, 2, group_size // 2)
    paired = halves[:, :, :, 0] | (halves[:, :, :, 1] << 4)
    return np.ascontiguousarray(paired.swapaxes(1, 2))


def pad_outputs(values: NDArray[Any]) -> NDArray[Any]:
    """[groups, out] -> [groups, padded out], with zeros."""
    return np.pad(values, ((0, 0), (0, padded_outputs(values.shape[1]) - values.shape[1])))


def padded_outputs(num_outputs: int) -> int:
    tile = int(TILE_OUT.value)
    return -(-num_outputs // tile) * tile


def groups_per_part(num_groups: int, num_outputs: int) -> int:
    """So many that few tokens still make enough programs; at least four, so that the parts' own traffic stays small."""
    num_tiles = triton.cdiv(num_outputs, TILE_OUT.value)
    num_parts = max(1, min(triton.cdiv(PROGRAMS_WANTED, num_tiles), num_groups // 4))
    return int(triton.cdiv(num_groups, num_parts))


def multiply(
    x: Quantized, weight: Mapping[str, Tensor], num_outputs: int, plan: Plan, onto: Tensor | None = None
) -> Tensor:
    """Quantised rows -> float32 [tokens, out], or their sum with `onto`, in place. The bits do not depend on `plan`."""
    num_tokens, (num_groups, padded_tokens) = x.num_tokens, x.scales.shape
    group_size = x.codes.shape[1] // num_groups
    y = x.scales.new_empty((num_tokens, num_outputs)) if onto is None else onto
    bias = weight.get("bias")
    per_part = groups_per_part(num_groups, num_outputs)
    num_parts = triton.cdiv(num_groups, per_part)
    is_split = plan.is_split and num_parts > 1
    target = y.new_empty((num_parts, num_tokens, num_outputs)) if is_split else y
    tile = plan.tile
    assert padded_tokens % tile.tokens == 0, "tokens that are not there would be read"
    grid = (triton.cdiv(num_outputs, tile.outputs), triton.cdiv(num_tokens, tile.tokens), num_parts if is_split else 1)
    _multiply[grid](
        x.codes, x.scales, x.sums, weight["codes"], weight["zeros"], weight["scales"], y if bias is None else bias, target,
        num_tokens, num_outputs, padded_tokens, padded_outputs(num_outputs), num_groups, per_part,
        has_bias=bias is not None, is_added=onto is not None, is_split=is_split, is_whole=num_parts == 1,
        half=group_size // 2, block_tokens=tile.tokens, block_out=tile.outputs,
        num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
    if is_split:
        parts = (target, y if bias is None else bias, y, num_parts, y.numel(), num_outputs)
        flags = {"has_bias": bias is not None, "is_added": onto is not None}
        _add_parts[(triton.cdiv(y.numel(), 1024),)](*parts, **flags, block=1024, num_warps=4, enable_fp_fusion=False)
    return y


def plan_product(num_tokens: int, num_groups: int, num_outputs: int) -> Plan:
    """The tile for so many tokens; the parts side by side where the tiles alone would leave multiprocessors idle."""
    has_parts = groups_per_part(num_groups, num_outputs) < num_groups
    few = FEW if num_tokens <= FEW.tokens else SOME
    many = MANY_IN_PARTS if has_parts else MANY
    tile = few if num_tokens <= SOME_TOKENS else many
    num_programs = triton.cdiv(num_outputs, tile.outputs) * triton.cdiv(num_tokens, tile.tokens)
    return Plan(tile, has_parts and num_programs < PROGRAMS_WANTED // 2)
