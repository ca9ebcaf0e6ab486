"""Causal attention over a paged cache; what several sequences share is read once for all of them.

A tile is up to 64 consecutive rows of the batch, of one sequence or of several. Keys are walked 64 tokens at a time, cut by
absolute position:

    rows of the tile       seq 3: r0 r1 r2 | seq 4: r3 | seq 5: r4 r5
    shared tokens          0 ........ 127 |                                once, for all rows: the same blocks in all tables
    each sequence's own                   | 128 .. 190 | 128 .. 140 | …    once per sequence, other rows masked

A masked chunk leaves a row's maximum, sum and result as they were, bit for bit. So a row's result is that of its own
sequence walked alone: the batch, the tile and the sharing change nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from guardhouse.ops.table import Batch, Int32

TILE_ROWS, CHUNK = 64, 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which rows and sequences each tile has; int32 [tiles] each."""

    first_row: Int32
    end_row: Int32
    first_seq: Int32
    end_seq: Int32
    num_shared: Int32  # leading tokens that all sequences of the tile have in the same blocks, whole chunks


@triton.jit
def _attend_chunk(
    query, best, total, result, keys, values, table, first, context_len, row_limit, kv_head, num_kv_heads, block_size,
    head_dim, head_block: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """Walk tokens first .. first + chunk - 1 of one block table; row r sees those at positions <= row_limit[r]."""
    positions = first + tl.arange(0, chunk)
    is_there = positions < context_len
    blocks = tl.load(table + positions // block_size, mask=is_there, other=0).to(tl.int64)
    place = ((blocks * num_kv_heads + kv_head) * block_size + positions % block_size) * head_dim
    dims = tl.arange(0, head_block)
    is_kept = is_there[:, None] & (dims[None, :] < head_dim)
    key = tl.load(keys + place[:, None] + dims[None, :], mask=is_kept, other=0)
    scores = tl.dot(query, tl.trans(key))
    is_seen = (positions[None, :] <= row_limit[:, None]) & is_there[None, :]
    scores = tl.where(is_seen, scores, float("-inf"))
    new_best = tl.maximum(best, tl.max(scores, axis=1))
    anchor = tl.where(new_best == float("-inf"), 0.0, new_best)  # a row that has seen nothing yet
    weights = tl.exp(scores - anchor[:, None])
    fade = tl.exp(best - anchor)
    value = tl.load(values + place[:, None] + dims[None, :], mask=is_kept, other=0)
    is_finite = tl.abs(value.to(tl.float32)) < float("inf")
    spoilt = tl.max(tl.where(is_finite, 0, 1), axis=1)  # 0 * NaN would reach rows that do not see the token …
    result = tl.dot(weights.to(tl.float16), tl.where(is_finite, value, 0.0).to(tl.float16), acc=result * fade[:, None])
    is_spoilt = tl.max(tl.where(is_seen, spoilt[None, :], 0), axis=1) > 0  # … and must reach those that do
    total = tl.where(is_spoilt, float("nan"), total * fade + tl.sum(weights, axis=1))
    return new_best, total, result


@triton.jit
def _attend(
    qkv, out, keys, values, block_tables, context_lens, positions, row_seqs,
    first_rows, end_rows, first_seqs, end_seqs, num_shareds,
    scale, num_heads, num_kv_heads, block_size, max_blocks, head_dim,
    head_block: tl.constexpr, tile_rows: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1)
    rows = tl.load(first_rows + tile) + tl.arange(0, tile_rows)
    is_row = rows < tl.load(end_rows + tile)
    first_seq, end_seq = tl.load(first_seqs + tile), tl.load(end_seqs + tile)
    num_shared = tl.load(num_shareds + tile)
    kv_head = head // (num_heads // num_kv_heads)
    dims = tl.arange(0, head_block)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    place = rows[:, None].to(tl.int64) * width + head * head_dim + dims[None, :]
    is_place = is_row[:, None] & (dims[None, :] < head_dim)
    query = (tl.load(qkv + place, mask=is_place, other=0) * scale).to(tl.float16)
    position = tl.load(positions + rows, mask=is_row, other=-1)
    row_seq = tl.load(row_seqs + rows, mask=is_row, other=-1)
    best = tl.full((tile_rows,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((tile_rows,), dtype=tl.float32)
    result = tl.zeros((tile_rows, head_block), dtype=tl.float32)
    table = block_tables + first_seq * max_blocks
    for first in range(0, num_shared, chunk):
        best, total, result = _attend_chunk(
            query, best, total, result, keys, values, table, first, num_shared, position, kv_head, num_kv_heads,
            block_size, head_dim, head_block, chunk,
        )  # fmt: skip
    for seq in range(first_seq, end_seq):
        context_len = tl.load(context_lens + seq)
        limit = tl.where(row_seq == seq, position, -1)
        table = block_tables + seq * max_blocks
        for first in range(num_shared, context_len, chunk):
            best, total, result = _attend_chunk(
                query, best, total, result, keys, values, table, first, context_len, limit, kv_head, num_kv_heads,
                block_size, head_dim, head_block, chunk,
            )  # fmt: skip
    out_place = rows[:, None].to(tl.int64) * (num_heads * head_dim) + head * head_dim + dims[None, :]
    tl.store(out + out_place, result / total[:, None], mask=is_place)


def plan_tiles(batch: Batch, block_size: int) -> Tiles:
    """Cut the batch's rows into tiles: long spans by themselves, short neighbours together."""
    starts = batch.query_starts
    cuts: list[tuple[int, int, int, int, int]] = []
    seq, num_seqs = 0, len(batch.context_lens)
    while seq < num_seqs:
        end = seq + 1
        while end < num_seqs and starts[end + 1] - starts[seq] <= TILE_ROWS:
            end += 1
        shared = _num_shared(batch, seq, end, block_size)
        cuts += [
            (row, min(row + TILE_ROWS, int(starts[end])), seq, end, shared)
            for row in range(int(starts[seq]), int(starts[end]), TILE_ROWS)
        ]
        seq = end
    return Tiles(*np.array(cuts, np.int32).T.copy())


def _num_shared(batch: Batch, first: int, end: int, block_size: int) -> int:
    """Leading tokens, in whole chunks, whose blocks all tables agree on and which all rows of the tile see."""
    if end - first == 1:
        return 0  # alone it makes no difference
    tables = batch.block_tables[first:end]
    differs = (tables != tables[0]).any(axis=0)
    num_blocks = int(differs.argmax()) if differs.any() else tables.shape[1]
    earliest = int(batch.positions[batch.query_starts[first] : batch.query_starts[end]].min())
    return min(num_blocks * block_size, earliest) // CHUNK * CHUNK


def attend(
    qkv: Tensor, cache: tuple[Tensor, Tensor], batch: dict[str, Tensor], tiles: dict[str, Tensor], num_heads: int
) -> Tensor:
    """qkv as rope_and_store left it, one layer's keys and values -> float32 [tokens, heads * head_dim]."""
    keys, values = cache
    _, num_kv_heads, block_size, head_dim = keys.shape
    out = torch.empty((len(qkv), num_heads * head_dim), dtype=torch.float32, device=qkv.device)
    tables = batch["block_tables"]
    _attend[(len(tiles["first_row"]), num_heads)](
        qkv, out, keys, values, tables, batch["context_lens"], batch["positions"], batch["row_seqs"],
        tiles["first_row"], tiles["end_row"], tiles["first_seq"], tiles["end_seq"], tiles["num_shared"],
        head_dim**-0.5, num_heads, num_kv_heads, block_size, tables.shape[1], head_dim,
        head_block=max(16, triton.next_power_of_2(head_dim)), tile_rows=TILE_ROWS, chunk=CHUNK,
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
