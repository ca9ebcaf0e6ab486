"""4-bit weights times 8-bit activations on tensor cores: exact integers within a group, floats in a fixed order.

    codes    uint8 [out / 64, groups, 64, G / 2]   a tile's bytes lie side by side; byte j of a group holds input j in its
                                                   low nibble, input G/2 + j in its high one: no shuffles
    affine   int32 [out / 64, groups, 64]          low half: the scale, as float16; high half: the zero point
    x        int8  [tokens, in], scales float [groups, tokens], from activations.py: padded to whole tiles, so that nothing
             need be masked; what padding holds goes to results that are not stored

    part[t, o]   = sum over its groups, in order, of  ((codes - zero) . x) * (scale * x_scale)
    result[t, o] = sum over parts, in order; then bias

A part is a run of groups; its length depends on the weight's shape alone. Where few programs would be at work, there is one
per part, and the parts are added in order; else one program walks all parts and keeps their sum in memory, since a second
sum would take registers from the first. What is in inner brackets is below 2^24, so exact in integers and in floats alike,
and the float sums happen in the same order with the same roundings (fused operations are written out, none are left to the
compiler): a row's bits depend neither on the tile nor on what else is in the batch.

Everything a group needs comes through the pipeline, its scales and zero points too: waited for one by one, they took a third
of the time (docs/log.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from guardhouse.ops.gpu.activations import FEW_TOKENS, Quantized

GROUP_SIZES = (64, 128)
TILE_OUT = tl.constexpr(64)  # outputs of a program, whose codes lie side by side
IS_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # it knows no machine code
PROGRAMS_WANTED = 128  # about one per multiprocessor of an H100 or H200


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's share of the result is this many tokens by 64 outputs."""

    tokens: int
    num_stages: int  # groups on their way from memory


@dataclass(frozen=True, slots=True)
class Plan:
    """How a product is cut. It changes the time, never a bit."""

    tile: Tile
    is_split: bool  # the parts side by side, where there are several


# Few tokens are bound by the weights' bytes, many by the products and by what goes from the L2 cache to a multiprocessor.
# Measured on an H100 (docs/log.md); none of these spills registers: tests/ops/test_cuda_compiled.py has them compiled.
SOME_TOKENS = 64
FEW, SOME, MANY = Tile(FEW_TOKENS, 4), Tile(64, 3), Tile(128, 3)
NUM_WARPS = 4


@triton.jit
def _high(pair):
    """Bytes whose low nibbles are the high ones of `pair`; what is above them does not matter."""
    if IS_INTERPRETED:
        high = pair >> 4
    else:  # four bytes to an instruction
        high = tl.inline_asm_elementwise("shr.u32 $0, $1, 4;", "=r,r", [pair], tl.uint8, is_pure=True, pack=4)
    return high


@triton.jit
def _centred(pair, zeros):
    """The codes in the low nibbles, less their zero points: int8. `zeros`: int32, the zero point in every byte."""
    if IS_INTERPRETED:
        codes = (pair & 15).to(tl.int8) - (zeros & 15).to(tl.int8)
    else:  # Four bytes to an instruction. With its top bit set a byte never borrows; without it, it has its sign.
        codes = tl.inline_asm_elementwise(
            """{ .reg .b32 t; lop3.b32 t, $1, 0x0F0F0F0F, 0x80808080, 0xEA;
            sub.u32 t, t, $2; xor.b32 $0, t, 0x80808080; }""",
            "=r,r,r,r,r,r",
            [pair, zeros],
            tl.int8,
            is_pure=True,
            pack=4,
        )
    return codes


@triton.jit
def _sum_part(
    x, x_scales, codes, affine, first_group, end_group, num_groups, padded_tokens, tokens, outputs,
    half: tl.constexpr, block_tokens: tl.constexpr, block_out: tl.constexpr, num_stages: tl.constexpr,
):  # fmt: skip
    """float32 [outputs, tokens]: the groups first_group .. end_group - 1, added in order."""
    x_row = x + tokens[None, :].to(tl.int64) * (num_groups * 2 * half) + tl.arange(0, 2 * half)[:, None]
    tile = (outputs // TILE_OUT).to(tl.int64) * num_groups * TILE_OUT + outputs % TILE_OUT
    code_row = codes + tile[:, None] * half + tl.arange(0, half)[None, :]
    total = tl.zeros((block_out, block_tokens), dtype=tl.float32)
    for group in tl.range(first_group, end_group, num_stages=num_stages):
        pair = tl.load(code_row + group * TILE_OUT * half)
        word = tl.load(affine + tile + group * TILE_OUT)
        x_codes = tl.load(x_row + group * 2 * half)
        x_scale = tl.load(x_scales + group * padded_tokens + tokens)
        scale = (word & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
        zeros = tl.broadcast_to(((word >> 16) * 0x01010101)[:, None], (block_out, half))
        low, high = _centred(pair, zeros), _centred(_high(pair), zeros)
        centred = tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (block_out, 2 * half))  # [out, low | high]
        exact = tl.dot(centred, x_codes, out_dtype=tl.int32).to(tl.float32)
        total = tl.fma(exact, scale[:, None] * x_scale[None, :], total)
    return total


@triton.jit(do_not_specialize=["num_tokens"])
def _multiply(
    x, x_scales, codes, affine, bias, sums, y, num_tokens, num_outputs, padded_tokens, num_groups, groups_per_part,
    has_bias: tl.constexpr, is_added: tl.constexpr, num_parts: tl.constexpr, is_split: tl.constexpr, half: tl.constexpr,
    block_tokens: tl.constexpr, block_out: tl.constexpr, num_stages: tl.constexpr,
):  # fmt: skip
    """One tile of y [tokens, out]; split: of one part, sums being [parts, tokens, out]; else sums [programs, tile]."""
    tokens = tl.program_id(0) * block_tokens + tl.arange(0, block_tokens)  # neighbours share their weights
    outputs = tl.program_id(1) * block_out + tl.arange(0, block_out)
    first = tl.program_id(2) * groups_per_part
    total = _sum_part(
        x, x_scales, codes, affine, first, min(first + groups_per_part, num_groups), num_groups, padded_tokens,
        tokens, outputs, half, block_tokens, block_out, num_stages,
    )  # fmt: skip
    if not is_split:
        program = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        own = sums + program * (block_out * block_tokens)
        own += tl.arange(0, block_out)[:, None] * block_tokens + tl.arange(0, block_tokens)[None, :]
        for part in range(1, num_parts):
            tl.store(own, total)
            first = part * groups_per_part
            total = _sum_part(
                x, x_scales, codes, affine, first, min(first + groups_per_part, num_groups), num_groups, padded_tokens,
                tokens, outputs, half, block_tokens, block_out, num_stages,
            )  # fmt: skip
            tl.debug_barrier()  # what is read next, another thread may have written
            total = tl.load(own) + total
    is_place = (tokens < num_tokens)[None, :] & (outputs < num_outputs)[:, None]
    place = tokens[None, :].to(tl.int64) * num_outputs + outputs[:, None]
    if is_split:
        tl.store(sums + tl.program_id(2).to(tl.int64) * num_tokens * num_outputs + place, total, mask=is_place)
    else:
        if has_bias:
            total += tl.load(bias + outputs, mask=outputs < num_outputs, other=0)[:, None]
        if is_added:
            total += tl.load(y + place, mask=is_place, other=0)
        tl.store(y + place, total, mask=is_place)


@triton.jit
def _add_parts(
    parts, bias, y, num_parts, size, num_outputs, has_bias: tl.constexpr, is_added: tl.constexpr, block: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    is_place = place < size
    total = tl.load(parts + place, mask=is_place, other=0)
    for _ in range(1, num_parts):
        parts += size
        total += tl.load(parts + place, mask=is_place, other=0)
    if has_bias:
        total += tl.load(bias + place % num_outputs, mask=is_place, other=0)
    if is_added:
        total += tl.load(y + place, mask=is_place, other=0)
    tl.store(y + place, total, mask=is_place)


def pack(
    codes: NDArray[np.uint8], zeros: NDArray[np.uint8], scales: NDArray[np.float16], group_size: int
) -> dict[str, NDArray[Any]]:
    """[in, out], [groups, out], [groups, out] -> codes and affine as in this file's head, outputs padded with zeros."""
    num_inputs, num_outputs = codes.shape
    tile, num_groups = TILE_OUT.value, num_inputs // group_size
    padded = np.zeros((padded_outputs(num_outputs), num_inputs), np.uint8)
    padded[:num_outputs] = codes.T
    halves = padded.reshape(-1, tile, num_groups, 2, group_size // 2)
    paired = halves[:, :, :, 0] | (halves[:, :, :, 1] << 4)
    words = np.zeros((num_groups, len(padded)), np.int32)
    words[:, :num_outputs] = (zeros.astype(np.int32) << 16) | scales.view(np.uint16)
    return {
        "codes": np.ascontiguousarray(paired.swapaxes(1, 2)),
        "affine": np.ascontiguousarray(words.reshape(num_groups, -1, tile).swapaxes(0, 1)),
    }


def padded_outputs(num_outputs: int) -> int:
    tile = int(TILE_OUT.value)
    return -(-num_outputs // tile) * tile


def groups_per_part(num_groups: int, num_outputs: int) -> int:
    """So many that few tokens still make enough programs; at least four, so that the parts' own traffic stays small."""
    num_parts = max(1, min(PROGRAMS_WANTED // triton.cdiv(num_outputs, TILE_OUT.value), num_groups // 4))
    return int(triton.cdiv(num_groups, num_parts))


def multiply(
    x: Quantized,
    weight: Mapping[str, Tensor],
    num_outputs: int,
    plan: Plan,
    onto: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Quantised rows -> [tokens, out], or their sum with `onto`, in place. The bits do not depend on `plan`."""
    num_tokens, (num_groups, padded_tokens) = x.num_tokens, x.scales.shape
    y = x.scales.new_empty((num_tokens, num_outputs), dtype=dtype) if onto is None else onto
    bias = weight.get("bias")
    flags = {"has_bias": bias is not None, "is_added": onto is not None}
    per_part = groups_per_part(num_groups, num_outputs)
    num_parts = triton.cdiv(num_groups, per_part)
    is_split = plan.is_split and num_parts > 1
    tile = plan.tile
    assert padded_tokens % tile.tokens == 0, "tokens that are not there would be read"
    grid = (
        triton.cdiv(num_tokens, tile.tokens),
        triton.cdiv(num_outputs, TILE_OUT.value),
        num_parts if is_split else 1,
    )
    shape = (num_parts, num_tokens, num_outputs) if is_split else (*grid, tile.tokens, TILE_OUT.value)
    sums = x.scales.new_empty(shape) if num_parts > 1 else y
    _multiply[grid](
        x.codes, x.scales, weight["codes"], weight["affine"], y if bias is None else bias, sums, y,
        num_tokens, num_outputs, padded_tokens, num_groups, per_part, **flags, num_parts=num_parts, is_split=is_split,
        half=x.codes.shape[1] // num_groups // 2, block_tokens=tile.tokens, block_out=TILE_OUT.value,
        num_warps=NUM_WARPS, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
    if is_split:
        parts = (sums, y if bias is None else bias, y, num_parts, y.numel(), num_outputs)
        _add_parts[(triton.cdiv(y.numel(), 1024),)](*parts, **flags, block=1024, num_warps=4, enable_fp_fusion=False)
    return y


def plan_product(num_tokens: int, num_outputs: int) -> Plan:
    """The tile for so many tokens; the parts side by side where the tiles alone would leave multiprocessors idle."""
    tile = FEW if num_tokens <= FEW.tokens else SOME if num_tokens <= SOME_TOKENS else MANY
    num_programs = triton.cdiv(num_outputs, TILE_OUT.value) * triton.cdiv(num_tokens, tile.tokens)
    return Plan(tile, num_programs < PROGRAMS_WANTED)
