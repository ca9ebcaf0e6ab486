"""Causal attention over a paged cache: keys in spans of fixed length, what sequences share read once for all of them.

The work is a list of items. An item is up to 64 consecutive rows of the batch and one span of 256 keys, cut by absolute
position; it leaves its rows' maximum, sum and weighted values for that span. A second kernel adds a row's spans in order.

    rows                    seq 3: r0 r1 r2 | seq 4: r3 | seq 5: r4 r5
    spans that they share   [0, 256) [256, 512) [512, 768)                one item each, for all six rows: the same blocks
    each sequence's own     [768, 831)          | [768, 900) | …          items of its own

So one sequence alone keeps many multiprocessors busy (its spans run side by side), and a row's result is made of the same
numbers in the same order whatever else is in the batch. Within a span keys are walked 64 at a time; those that a row may
not see leave its maximum, sum and result as they were, bit for bit. Keys and values of other sequences are never read.
"""

from collections.abc import Iterator

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from guardhouse.ops.table import Batch, Int32

ITEM_ROWS, SPAN, CHUNK = 64, 256, 64
ITEM_FIELDS = 5  # first row, end row, where the block table starts, first key, end of keys
TABLE = 2  # the field that says where the block table starts
ROWS_AT_ONCE = 8
LOG2_E = 1.4426950408889634


@triton.jit(do_not_specialize=["num_tokens", "num_items"])
def _attend_span(
    qkv, maxima, sums, results, keys, values, block_tables, positions, items,
    scale, num_tokens, num_items, num_heads, num_kv_heads, block_size: tl.constexpr, head_dim: tl.constexpr,
    head_block: tl.constexpr, item_rows: tl.constexpr, span: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """One item's one head. Scores are in powers of two: `scale` holds log2(e)."""
    item, head = tl.program_id(0), tl.program_id(1)
    first_row, end_row = tl.load(items + item), tl.load(items + num_items + item)
    if first_row < end_row:  # padding has no rows
        table = block_tables + tl.load(items + 2 * num_items + item)
        first_key, end_key = tl.load(items + 3 * num_items + item), tl.load(items + 4 * num_items + item)
        rows = first_row + tl.arange(0, item_rows)
        is_row = rows < end_row
        dims = tl.arange(0, head_block)
        is_dim = dims < head_dim
        width = (num_heads + 2 * num_kv_heads) * head_dim
        place = rows[:, None].to(tl.int64) * width + head * head_dim + dims[None, :]
        is_place = is_row[:, None] & is_dim[None, :]
        query = (tl.load(qkv + place, mask=is_place, other=0) * scale).to(tl.float16)
        position = tl.load(positions + rows, mask=is_row, other=-1)
        kv_head = head // (num_heads // num_kv_heads)
        best = tl.full((item_rows,), float("-inf"), dtype=tl.float32)
        total = tl.zeros((item_rows,), dtype=tl.float32)
        result = tl.zeros((item_rows, head_block), dtype=tl.float32)
        for first in range(first_key, end_key, chunk):
            key_positions = first + tl.arange(0, chunk)
            is_there = key_positions < end_key
            blocks = tl.load(table + key_positions // block_size, mask=is_there, other=0).to(tl.int64)
            key_place = ((blocks * num_kv_heads + kv_head) * block_size + key_positions % block_size) * head_dim
            is_kept = is_there[:, None] & is_dim[None, :]
            key = tl.load(keys + key_place[:, None] + dims[None, :], mask=is_kept, other=0)
            value = tl.load(values + key_place[:, None] + dims[None, :], mask=is_kept, other=0)
            scores = tl.dot(query, tl.trans(key))
            is_seen = (key_positions[None, :] <= position[:, None]) & is_there[None, :]
            scores = tl.where(is_seen, scores, float("-inf"))
            new_best = tl.maximum(best, tl.max(scores, axis=1))
            anchor = tl.where(new_best == float("-inf"), 0.0, new_best)  # a row that has seen nothing yet
            weights = tl.exp2(scores - anchor[:, None])
            fade = tl.exp2(best - anchor)
            total = total * fade + tl.sum(weights, axis=1)
            result = tl.dot(weights.to(tl.float16), value, acc=result * fade[:, None])
            best = new_best
        part = (first_key // span).to(tl.int64) * num_tokens * num_heads + rows.to(tl.int64) * num_heads + head
        tl.store(maxima + part, best, mask=is_row)
        tl.store(sums + part, total, mask=is_row)
        tl.store(results + part[:, None] * head_dim + dims[None, :], result, mask=is_place)


@triton.jit(do_not_specialize=["num_tokens"])
def _add_spans(
    maxima, sums, results, positions, out, num_tokens, num_heads, head_dim: tl.constexpr, head_block: tl.constexpr,
    span: tl.constexpr, rows_at_once: tl.constexpr,
):  # fmt: skip
    """Some rows' one head: softmax over the spans up to a row's own position, in order. NaN in any of them gives NaN."""
    rows, head = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once), tl.program_id(1)
    is_row = rows < num_tokens
    num_spans = tl.load(positions + rows, mask=is_row, other=-1) // span + 1
    part = rows.to(tl.int64) * num_heads + head
    stride = num_tokens.to(tl.int64) * num_heads
    dims = tl.arange(0, head_block)
    place = part[:, None] * head_dim + dims[None, :]
    is_place = is_row[:, None] & (dims < head_dim)[None, :]
    best = tl.load(maxima + part, mask=is_row, other=0)
    total = tl.load(sums + part, mask=is_row, other=1)
    result = tl.load(results + place, mask=is_place, other=0)
    for index in range(1, tl.max(num_spans, axis=0)):
        maxima += stride
        sums += stride
        results += stride * head_dim
        has_span = index < num_spans  # without: times 1, plus 0
        other_best = tl.load(maxima + part, mask=has_span, other=float("-inf"))
        new_best = tl.maximum(best, other_best)
        anchor = tl.where(new_best == float("-inf"), 0.0, new_best)
        fade, other_fade = tl.exp2(best - anchor), tl.exp2(other_best - anchor)
        total = total * fade + tl.load(sums + part, mask=has_span, other=0) * other_fade
        other = tl.load(results + place, mask=is_place & has_span[:, None], other=0)
        result = result * fade[:, None] + other * other_fade[:, None]
        best = new_best
    tl.store(out + place, result / total[:, None], mask=is_place)


def plan_items(batch: Batch, block_size: int) -> Int32:
    """[5, items], see ITEM_FIELDS. Every row meets every span up to its own position exactly once."""
    starts, max_blocks = batch.query_starts.tolist(), batch.block_tables.shape[1]
    items: list[tuple[int, int, int, int, int]] = []
    for first, end, num_shared in _groups(batch, block_size):
        for row in range(starts[first], starts[end], ITEM_ROWS):
            end_row = min(row + ITEM_ROWS, starts[end])
            items += [(row, end_row, first * max_blocks, key, key + SPAN) for key in range(0, num_shared * SPAN, SPAN)]
        for seq in range(first, end):
            for row in range(starts[seq], starts[seq + 1], ITEM_ROWS):
                end_row = min(row + ITEM_ROWS, starts[seq + 1])
                end_key = int(batch.positions[end_row - 1]) + 1
                items += [
                    (row, end_row, seq * max_blocks, key, min(key + SPAN, end_key))
                    for key in range(num_shared * SPAN, end_key, SPAN)
                ]
    return np.array(items, np.int32).T.copy()


def _groups(batch: Batch, block_size: int) -> Iterator[tuple[int, int, int]]:
    """(first sequence, end, leading spans that they share): neighbours whose tables agree, as far as the first two do."""
    num_seqs = len(batch.context_lens)
    shared = [_num_shared(batch, seq, block_size) for seq in range(num_seqs - 1)]
    first = 0
    while first < num_seqs:
        end, num_shared = first + 1, shared[first] if first < num_seqs - 1 else 0
        while num_shared and end < num_seqs and shared[end - 1] >= num_shared:
            end += 1
        yield first, end, num_shared
        first = end


def _num_shared(batch: Batch, seq: int, block_size: int) -> int:
    """Leading spans that a sequence and the next have in the same blocks and that all their new rows see whole."""
    differs = np.flatnonzero(batch.block_tables[seq] != batch.block_tables[seq + 1])
    num_blocks = int(differs[0]) if len(differs) else batch.block_tables.shape[1]
    earliest = batch.positions[batch.query_starts[seq : seq + 2]].min()
    return int(min(num_blocks * block_size, earliest)) // SPAN


def attend(
    qkv: Tensor, cache: tuple[Tensor, Tensor], batch: tuple[Tensor, ...], num_heads: int, max_spans: int
) -> Tensor:
    """qkv as rope_and_store left it, one layer's keys and values -> float32 [tokens, heads * head_dim].

    `batch`: positions, items as planned, block tables laid end to end. `max_spans`: of the longest context.
    """
    keys, values = cache
    _, num_kv_heads, block_size, head_dim = keys.shape
    positions, items, block_tables = batch
    num_tokens = len(qkv)
    maxima, sums = qkv.new_empty((2, max_spans, num_tokens, num_heads))
    results = qkv.new_empty((max_spans, num_tokens, num_heads, head_dim))
    out = qkv.new_empty((num_tokens, num_heads * head_dim))
    head_block = max(16, triton.next_power_of_2(head_dim))
    _attend_span[(items.shape[1], num_heads)](
        qkv, maxima, sums, results, keys, values, block_tables, positions, items,
        head_dim**-0.5 * LOG2_E, num_tokens, items.shape[1], num_heads, num_kv_heads,
        block_size=block_size, head_dim=head_dim, head_block=head_block, item_rows=ITEM_ROWS, span=SPAN, chunk=CHUNK,
        num_warps=4, num_stages=2, enable_fp_fusion=False,
    )  # fmt: skip
    _add_spans[(triton.cdiv(num_tokens, ROWS_AT_ONCE), num_heads)](
        maxima, sums, results, positions, out, num_tokens, num_heads,
        head_dim=head_dim, head_block=head_block, span=SPAN, rows_at_once=ROWS_AT_ONCE, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
