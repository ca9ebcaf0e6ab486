"""Causal attention over a paged cache: keys in spans of fixed length, what sequences share read once for all of them.

A row's keys are cut into spans of 256 by absolute position; each span gives the row's maximum, sum and weighted values, and
these are merged in order. The work is up to 64 consecutive rows of the batch and

    few rows    one span (an item), for neighbours that share its blocks together; then a second kernel merges a row's spans
                seq 3: r0 r1 r2 | seq 4: r3 | seq 5: r4 r5
                shared: [0, 256) [256, 512) [512, 768)          one item each, for all six rows
                own:    [768, 831)       | [768, 900) | …       items of each sequence's own
    many rows   all spans of one sequence (a walk), merged as it goes

So one sequence alone keeps many multiprocessors busy (its spans run side by side), many long ones write nothing but their
results, and a row's result is made of the same numbers in the same order whatever else is in the batch. Within a span keys
are walked 64 at a time; those that a row may not see leave its maximum, sum and result as they were, bit for bit. Keys and
values of other sequences are never read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from guardhouse.ops.table import Batch, Int32

BLOCK_ROWS, SPAN, CHUNK = 64, 256, 64
ITEM_FIELDS = 5  # first row, end row, where the block table starts, first key, end of keys; a walk's first key is 0
TABLE = 2  # the field that says where the block table starts
MANY_BLOCKS = 8  # of rows: with 32 heads as many programs as two for each multiprocessor of an H100
WALKING_ROWS = 33  # of a sequence, at least: fewer share their keys with neighbours instead
ROWS_AT_ONCE = 8
LOG2_E = 1.4426950408889634


@triton.jit
def _merge(best, total, result, other_best, other_total, other_result):
    """Two spans' maxima, sums and weighted values -> those of both. -inf: a row that has seen nothing there."""
    new_best = tl.maximum(best, other_best)
    anchor = tl.where(new_best == float("-inf"), 0.0, new_best)
    fade, other_fade = tl.exp2(best - anchor), tl.exp2(other_best - anchor)
    total = total * fade + other_total * other_fade
    return new_best, total, result * fade[:, None] + other_result * other_fade[:, None]


@triton.jit
def _attend_span(
    query, position, keys, values, table, first_key, end_key, kv_head, num_kv_heads, block_size: tl.constexpr,
    head_dim: tl.constexpr, head_block: tl.constexpr, block_rows: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """Maximum, sum and weighted values of the keys first_key .. end_key - 1, as far as each row may see them."""
    dims = tl.arange(0, head_block)
    best = tl.full((block_rows,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((block_rows,), dtype=tl.float32)
    result = tl.zeros((block_rows, head_block), dtype=tl.float32)
    for first in range(first_key, end_key, chunk):
        key_positions = first + tl.arange(0, chunk)
        is_there = key_positions < end_key
        blocks = tl.load(table + key_positions // block_size, mask=is_there, other=0)
        key_rows = (blocks * num_kv_heads + kv_head) * block_size + key_positions % block_size
        key_place = key_rows.to(tl.int64) * head_dim
        is_kept = is_there[:, None] if head_dim == head_block else is_there[:, None] & (dims < head_dim)[None, :]
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
    return best, total, result


@triton.jit(do_not_specialize=["num_tokens", "num_items"])
def _attend_item(
    queries, maxima, sums, results, keys, values, block_tables, positions, items,
    num_tokens, num_items, num_heads, num_kv_heads, block_size: tl.constexpr, head_dim: tl.constexpr,
    head_block: tl.constexpr, block_rows: tl.constexpr, span: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """One item's one head."""
    item, head = tl.program_id(0), tl.program_id(1)
    first_row, end_row = tl.load(items + item), tl.load(items + num_items + item)
    if first_row < end_row:  # padding has no rows
        table = block_tables + tl.load(items + 2 * num_items + item)
        first_key, end_key = tl.load(items + 3 * num_items + item), tl.load(items + 4 * num_items + item)
        rows, dims = first_row + tl.arange(0, block_rows), tl.arange(0, head_block)
        is_row = rows < end_row
        is_place = is_row[:, None] & (dims < head_dim)[None, :]
        row_head = rows.to(tl.int64) * num_heads + head
        query = tl.load(queries + row_head[:, None] * head_dim + dims[None, :], mask=is_place, other=0)
        position = tl.load(positions + rows, mask=is_row, other=-1)
        best, total, result = _attend_span(
            query, position, keys, values, table, first_key, end_key, head // (num_heads // num_kv_heads), num_kv_heads,
            block_size, head_dim, head_block, block_rows, chunk,
        )  # fmt: skip
        part = (first_key // span).to(tl.int64) * num_tokens * num_heads + row_head
        tl.store(maxima + part, best, mask=is_row)
        tl.store(sums + part, total, mask=is_row)
        tl.store(results + part[:, None] * head_dim + dims[None, :], result, mask=is_place)


@triton.jit(do_not_specialize=["num_walks"])
def _attend_walk(
    queries, results, out, keys, values, block_tables, positions, walks,
    num_walks, num_heads, num_kv_heads, block_size: tl.constexpr, head_dim: tl.constexpr, head_block: tl.constexpr,
    block_rows: tl.constexpr, span: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """One walk's one head. Two results at once would not fit the registers: the older one waits in `results`."""
    walk, head = tl.program_id(0), tl.program_id(1)
    first_row, end_row = tl.load(walks + walk), tl.load(walks + num_walks + walk)
    if first_row < end_row:  # padding has no rows
        table, end_key = block_tables + tl.load(walks + 2 * num_walks + walk), tl.load(walks + 4 * num_walks + walk)
        rows, dims = first_row + tl.arange(0, block_rows), tl.arange(0, head_block)
        place = (rows.to(tl.int64) * num_heads + head)[:, None] * head_dim + dims[None, :]
        query = tl.load(queries + place, mask=(rows < end_row)[:, None] & (dims < head_dim)[None, :], other=0)
        position = tl.load(positions + rows, mask=rows < end_row, other=-1)
        own = results + (walk.to(tl.int64) * num_heads + head) * (block_rows * head_block)
        own += tl.arange(0, block_rows)[:, None] * head_block + dims[None, :]
        last_best = tl.full((block_rows,), float("-inf"), dtype=tl.float32)
        last_total = tl.zeros((block_rows,), dtype=tl.float32)
        tl.store(own, tl.zeros((block_rows, head_block), dtype=tl.float32))
        for first in range(0, end_key, span):
            best, total, result = _attend_span(
                query, position, keys, values, table, first, min(first + span, end_key), head // (num_heads // num_kv_heads),
                num_kv_heads, block_size, head_dim, head_block, block_rows, chunk,
            )  # fmt: skip
            tl.debug_barrier()  # what is read next, another thread may have written
            last_best, last_total, result = _merge(last_best, last_total, tl.load(own), best, total, result)
            tl.store(own, result)
        first_row, end_row = tl.load(walks + walk), tl.load(walks + num_walks + walk)  # again: kept, they spill
        tl.debug_barrier()
        rows = first_row + tl.arange(0, block_rows)
        place = (rows.to(tl.int64) * num_heads + head)[:, None] * head_dim + dims[None, :]
        is_place = (rows < end_row)[:, None] & (dims < head_dim)[None, :]
        tl.store(out + place, tl.load(own) / last_total[:, None], mask=is_place)


@triton.jit(do_not_specialize=["num_tokens"])
def _merge_spans(
    maxima, sums, results, span_counts, out, num_tokens, num_heads, head_dim: tl.constexpr, head_block: tl.constexpr,
    rows_at_once: tl.constexpr,
):  # fmt: skip
    """Some rows' one head, in order. Rows without spans have been walked. NaN in any span gives NaN."""
    rows, head = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once), tl.program_id(1)
    num_spans = tl.load(span_counts + rows, mask=rows < num_tokens, other=0)
    part = rows.to(tl.int64) * num_heads + head
    stride = num_tokens.to(tl.int64) * num_heads
    dims = tl.arange(0, head_block)
    place = part[:, None] * head_dim + dims[None, :]
    is_place = (num_spans > 0)[:, None] & (dims < head_dim)[None, :]
    best = tl.load(maxima + part, mask=num_spans > 0, other=0)
    total = tl.load(sums + part, mask=num_spans > 0, other=1)
    result = tl.load(results + place, mask=is_place, other=0)
    for index in range(1, tl.max(num_spans, axis=0)):
        maxima += stride
        sums += stride
        results += stride * head_dim
        has_span = index < num_spans  # without: times 1, plus 0
        other_best = tl.load(maxima + part, mask=has_span, other=float("-inf"))
        other_total = tl.load(sums + part, mask=has_span, other=0)
        other = tl.load(results + place, mask=is_place & has_span[:, None], other=0)
        best, total, result = _merge(best, total, result, other_best, other_total, other)
    tl.store(out + place, result / total[:, None], mask=is_place)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done for a batch's rows: how it is cut changes the time, never a bit."""

    items: Int32  # [5, I], see ITEM_FIELDS
    walks: Int32  # [5, W], the same
    span_counts: Int32  # [tokens]: spans to merge; 0 for rows that are walked


def plan_work(batch: Batch, block_size: int) -> Work:
    """Every row meets every span up to its own position exactly once. Every step waits for this."""
    num_rows, max_blocks = np.diff(batch.query_starts), batch.block_tables.shape[1]
    is_walked = (num_rows >= WALKING_ROWS) & (int(np.sum(-(-num_rows // BLOCK_ROWS))) >= MANY_BLOCKS)
    starts, last_keys, items = batch.query_starts.tolist(), batch.positions.tolist(), []
    shared = _count_shared(batch, block_size, is_walked).tolist() if len(num_rows) > 1 else []
    for first, end, num_shared in _groups(shared):
        if num_shared:
            for rows in _row_blocks(starts[first], starts[end]):
                items += [(*rows, first * max_blocks, key, key + SPAN) for key in range(0, num_shared * SPAN, SPAN)]
        for seq in range(first, end):
            if is_walked[seq]:
                continue
            for rows in _row_blocks(starts[seq], starts[seq + 1]):
                end_key = last_keys[rows[1] - 1] + 1
                spans = range(num_shared * SPAN, end_key, SPAN)
                items += [(*rows, seq * max_blocks, key, min(key + SPAN, end_key)) for key in spans]
    walks = [
        (*rows, seq * max_blocks, 0, last_keys[rows[1] - 1] + 1)
        for seq in np.flatnonzero(is_walked).tolist()
        for rows in _row_blocks(starts[seq], starts[seq + 1])
    ]
    span_counts = np.where(np.repeat(is_walked, num_rows), 0, batch.positions // SPAN + 1).astype(np.int32)
    return Work(_columns(items), _columns(walks), span_counts)


def _row_blocks(start: int, end: int) -> list[tuple[int, int]]:
    return [(row, min(row + BLOCK_ROWS, end)) for row in range(start, end, BLOCK_ROWS)]


def _columns(fields: Sequence[tuple[int, ...]]) -> Int32:
    return np.array(fields, np.int32).reshape(-1, ITEM_FIELDS).T.copy()


def _groups(shared: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first sequence, end, leading spans that they share): neighbours whose tables agree, as far as the first two do.

    >>> list(_groups([3, 3, 0, 2, 1]))
    [(0, 3, 3), (3, 5, 2), (5, 6, 0)]
    """
    first, num_seqs = 0, len(shared) + 1
    while first < num_seqs:
        end, num_shared = first + 1, shared[first] if first < num_seqs - 1 else 0
        while num_shared and end < num_seqs and shared[end - 1] >= num_shared:
            end += 1
        yield first, end, num_shared
        first = end


def _count_shared(batch: Batch, block_size: int, is_walked: NDArray[np.bool_]) -> Int32:
    """[sequences - 1]: leading spans that one and the next have in the same blocks and that all their new rows see whole.

    0 where one of them is walked.
    """
    differs = batch.block_tables[:-1] != batch.block_tables[1:]
    num_blocks = np.where(differs.any(axis=1), differs.argmax(axis=1), batch.block_tables.shape[1])
    earliest = batch.positions[batch.query_starts[:-1]]
    num_keys = np.minimum(num_blocks * block_size, np.minimum(earliest[:-1], earliest[1:]))
    return np.where(is_walked[:-1] | is_walked[1:], 0, num_keys // SPAN).astype(np.int32)


def query_scale(head_dim: int) -> float:
    """What queries are multiplied by before they are float16: scores are exponents of two."""
    return float(head_dim**-0.5 * LOG2_E)


def attend(
    queries: Tensor, cache: tuple[Tensor, Tensor], batch: tuple[Tensor, ...], num_heads: int, max_spans: int
) -> Tensor:
    """Scaled float16 queries and one layer's keys and values -> float32 [tokens, heads * head_dim].

    `batch`: positions, the planned work's span counts, items and walks, block tables laid end to end. `max_spans`: the
    largest span count.
    """
    keys, values = cache
    _, num_kv_heads, block_size, head_dim = keys.shape
    positions, span_counts, items, walks, block_tables = batch
    num_tokens, num_items, num_walks = len(queries), items.shape[1], walks.shape[1]
    new = partial(torch.empty, dtype=torch.float32, device=queries.device)
    out, head_block = new((num_tokens, num_heads * head_dim)), max(16, triton.next_power_of_2(head_dim))
    read, heads = (keys, values, block_tables, positions), (num_heads, num_kv_heads)
    sizes = {"block_size": block_size, "head_dim": head_dim, "head_block": head_block, "block_rows": BLOCK_ROWS}
    options = sizes | {"span": SPAN, "chunk": CHUNK, "num_warps": 4, "num_stages": 2, "enable_fp_fusion": False}
    if num_walks:
        results = new((num_walks, num_heads, BLOCK_ROWS, head_block))
        _attend_walk[(num_walks, num_heads)](queries, results, out, *read, walks, num_walks, *heads, **options)
    if max_spans:
        maxima, sums = new((2, max_spans, num_tokens, num_heads))
        results = new((max_spans, num_tokens, num_heads, head_dim))
        parts = maxima, sums, results
        _attend_item[(num_items, num_heads)](queries, *parts, *read, items, num_tokens, num_items, *heads, **options)
        _merge_spans[(triton.cdiv(num_tokens, ROWS_AT_ONCE), num_heads)](
            *parts, span_counts, out, num_tokens, num_heads,
            head_dim=head_dim, head_block=head_block, rows_at_once=ROWS_AT_ONCE, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out
