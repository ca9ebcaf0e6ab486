"""A step on the device: its inputs in one copy, its launches recorded and replayed where its shape repeats.

A step of a large model is hundreds of small launches; from Python they take longer than the work of a short step. Recorded
as a CUDA graph they are one. A graph has fixed addresses and sizes, so a step is padded to a shape of a coarser grid, and
its numbers go into one buffer that never moves:

    token_ids slot_mapping positions span_counts items walks                 [T] four times, [5, I], [5, W]
    rows asked_positions asked_span_counts asked_items asked_walks           [R] three times, [5, J], [5, V]
    block_tables …                                                           all int32, from multiples of 16 bytes

Padding is a token that is not cached (its slot is -1), an item without rows, a row that nobody reads. "asked" is the last
layer's batch, which has the asked rows only; where every token is asked for, or none, it is empty.

A shape's first step runs as it is, padded: that compiles its kernels. Its second is recorded; from then on it is replayed.

Knows: shapes, buffers, when to record.
Never knows: what a step computes, which kernels it launches.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from guardhouse.ops.gpu.attention import ITEM_FIELDS, TABLE, Work, plan_work
from guardhouse.ops.table import Int32, Step

logger = logging.getLogger(__name__)

MAX_RECORDED_TOKENS = 1024  # a longer step's work hides its launches
MAX_RECORDINGS = 128  # the least recently used one is dropped
CAPACITY = 1 << 18  # numbers of the buffer: 64 tables of 4,096 blocks; a step that needs more gets a buffer of its own
MIN_ITEMS = 8
ALIGNMENT = 4  # numbers; 16 bytes, which Triton specialises kernels for
PADDING = {"slot_mapping": -1}  # 0 elsewhere
NO_ROWS, NO_ITEMS = np.zeros(0, np.int32), np.zeros((ITEM_FIELDS, 0), np.int32)


@dataclass(frozen=True, slots=True)
class WorkShape:
    """Of attention's work for one batch."""

    num_items: int = 0
    num_walks: int = 0
    max_spans: int = 0  # of keys, to be merged for one row

    @classmethod
    def of(cls, work: Work) -> "WorkShape":
        return cls(work.items.shape[1], work.walks.shape[1], int(work.span_counts.max(initial=0)))

    def padded(self) -> "WorkShape":
        return WorkShape(
            _power_of_two(self.num_items, MIN_ITEMS),
            _power_of_two(self.num_walks, MIN_ITEMS),
            _power_of_two(self.max_spans),
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """All that a step's launches depend on."""

    num_tokens: int
    work: WorkShape
    num_rows: int  # of the last layer, if it has some of the tokens only; else 0
    asked_work: WorkShape  # the same
    has_result: bool

    def padded(self) -> "Shape":
        """The shape of the grid that this one fits into.

        >>> Shape(127, WorkShape(9, 0, 3), 2, WorkShape(4, 0, 2), True).padded().work
        WorkShape(num_items=16, num_walks=0, max_spans=4)
        """
        num_rows = max(16, _rounded(self.num_rows)) if self.num_rows else 0
        return Shape(_rounded(self.num_tokens), self.work.padded(), num_rows, self.asked_work.padded(), self.has_result)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A step's numbers on the device."""

    shape: Shape
    arrays: Mapping[str, Tensor]  # int32, by the names in this file's head


Body = Callable[[Inputs], Tensor | None]  # the launches of a step: inputs -> result, None if nobody reads one


class Recorder(Protocol):
    """Records a call's launches without running them."""

    def __call__(self, call: Callable[[], Tensor | None]) -> tuple[Callable[[], None], Tensor | None]:
        """(run the launches again, the result that they write each time)."""


@dataclass(frozen=True, slots=True)
class Recording:
    replay: Callable[[], None]
    result: Tensor | None
    body: Body  # keeps alive whatever the launches read and write


class Steps:
    """Runs steps, one at a time. A result is good until the next step."""

    def __init__(self, device: torch.device, recorder: Recorder | None) -> None:
        self._device = device
        self._recorder = recorder  # None: every step runs as it is
        self._buffer: Tensor | None = None  # made with the first step
        self._results = torch.empty(
            0, device=device
        )  # all recordings write here: each with its own would take gigabytes
        self._seen: set[Hashable] = set()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    def run(self, arrays: Mapping[str, Int32], shape: Shape, body: Body, key: Hashable | None) -> Tensor | None:
        """`body` on the step's numbers. `key` names what else it reads and writes; None: it must not be recorded."""
        padded = shape.padded()
        if key is None or self._recorder is None or padded.num_tokens > MAX_RECORDED_TOKENS:
            return body(self.send(arrays, shape))
        flat = lay_out(arrays, padded)
        if len(flat) > CAPACITY:
            return body(self.send(arrays, shape))
        result = self._run_padded(self._send_flat(flat, padded), body, (key, padded))
        return None if result is None else result[: shape.num_rows or shape.num_tokens]

    def send(self, arrays: Mapping[str, Int32], shape: Shape) -> Inputs:
        """The step's numbers on the device, not padded beyond `shape`."""
        return self._send_flat(lay_out(arrays, shape), shape)

    def _run_padded(self, inputs: Inputs, body: Body, key: Hashable) -> Tensor | None:
        recording = self._recordings.get(key)
        if recording is None and key in self._seen:
            recording = self._record(inputs, body, key)
        if recording is None:
            self._seen.add(key)
            result = body(inputs)
            if result is not None and result.numel() > self._results.numel():  # older recordings keep theirs
                self._results = result.new_empty(_power_of_two(result.numel()))
            return result
        self._recordings.move_to_end(key)
        recording.replay()
        return recording.result

    def _record(self, inputs: Inputs, body: Body, key: Hashable) -> Recording | None:
        assert self._recorder is not None
        try:
            replay, result = self._recorder(lambda: self._kept(body(inputs)))
        except RuntimeError:
            logger.warning("a step could not be recorded as a CUDA graph: from now on none is", exc_info=True)
            self._recorder = None
            self._recordings.clear()
            return None
        recording = self._recordings[key] = Recording(replay, result, body)
        if len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording

    def _kept(self, result: Tensor | None) -> Tensor | None:
        return None if result is None else self._results[: result.numel()].view_as(result).copy_(result)

    def _send_flat(self, flat: Int32, shape: Shape) -> Inputs:
        """One copy, from pinned memory, that nobody waits for."""
        if self._buffer is None:
            self._buffer = torch.zeros(CAPACITY, dtype=torch.int32, device=self._device)
        fits = len(flat) <= CAPACITY
        target = self._buffer[: len(flat)] if fits else torch.empty(len(flat), dtype=torch.int32, device=self._device)
        source = torch.from_numpy(flat)
        if self._device.type == "cuda":
            source = source.pin_memory()
        target.copy_(source, non_blocking=True)
        return Inputs(shape, _cut(target, shape))


def step_arrays(step: Step) -> tuple[dict[str, Int32], Shape]:
    """The step's numbers, not yet padded. The asked batch's tables follow the batch's own."""
    batch, asked, block_size = step.batch, step.asked, step.cache.block_size
    work, tables = plan_work(batch, block_size), [batch.block_tables.reshape(-1)]
    rows, asked_positions, asked_work = NO_ROWS, NO_ROWS, Work(NO_ITEMS, NO_ITEMS, NO_ROWS)
    if asked is not None and asked is not batch:
        rows, asked_positions, asked_work = step.rows, asked.positions, plan_work(asked, block_size)
        for each in (asked_work.items, asked_work.walks):
            each[TABLE] += tables[0].size
        tables.append(asked.block_tables.reshape(-1))
    arrays = {"token_ids": step.token_ids, "slot_mapping": batch.slot_mapping, "positions": batch.positions}
    arrays |= _work_arrays("", work)
    arrays |= {"rows": rows, "asked_positions": asked_positions} | _work_arrays("asked_", asked_work)
    arrays["block_tables"] = np.concatenate(tables)
    shapes = WorkShape.of(work), WorkShape.of(asked_work)
    return arrays, Shape(len(step.token_ids), shapes[0], len(rows), shapes[1], has_result=asked is not None)


def _work_arrays(prefix: str, work: Work) -> dict[str, Int32]:
    return {f"{prefix}span_counts": work.span_counts, f"{prefix}items": work.items, f"{prefix}walks": work.walks}


def lay_out(arrays: Mapping[str, Int32], shape: Shape) -> Int32:
    """The step's numbers as one array, padded to `shape`; the block tables last, as long as they are."""
    parts = _parts(shape)
    tables = arrays["block_tables"]
    flat = np.zeros(sum(_multiple(size, ALIGNMENT) for size in parts.values()) + len(tables), np.int32)
    start = 0
    for name, size in parts.items():
        part = flat[start : start + size]
        part[:] = PADDING.get(name, 0)
        values = arrays[name]
        part.reshape(*values.shape[:-1], -1)[..., : values.shape[-1]] = values
        start += _multiple(size, ALIGNMENT)
    flat[start:] = tables
    return flat


def _cut(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    """The inverse of `lay_out`: views."""
    arrays, start = {}, 0
    for name, size in _parts(shape).items():
        arrays[name] = flat[start : start + size]
        start += _multiple(size, ALIGNMENT)
    for prefix, work in (("", shape.work), ("asked_", shape.asked_work)):
        arrays[f"{prefix}items"] = arrays[f"{prefix}items"].view(ITEM_FIELDS, work.num_items)
        arrays[f"{prefix}walks"] = arrays[f"{prefix}walks"].view(ITEM_FIELDS, work.num_walks)
    arrays["block_tables"] = flat[start:]
    return arrays


def _parts(shape: Shape) -> dict[str, int]:
    """Numbers in each part, in order; the block tables follow."""
    sizes = dict.fromkeys(("token_ids", "slot_mapping", "positions", "span_counts"), shape.num_tokens)
    sizes |= {"items": ITEM_FIELDS * shape.work.num_items, "walks": ITEM_FIELDS * shape.work.num_walks}
    sizes |= dict.fromkeys(("rows", "asked_positions", "asked_span_counts"), shape.num_rows)
    asked = shape.asked_work
    return sizes | {"asked_items": ITEM_FIELDS * asked.num_items, "asked_walks": ITEM_FIELDS * asked.num_walks}


def _rounded(number: int) -> int:
    """1, 2, 4, 8, 16, 32, 48, .. 128, 192, 256, .."""
    return _power_of_two(number) if number <= 16 else _multiple(number, 16 if number <= 128 else 64)


def _power_of_two(number: int, least: int = 1) -> int:
    """0 stays 0."""
    return max(least, 1 << (number - 1).bit_length()) if number else 0


def _multiple(number: int, step: int) -> int:
    return -(-number // step) * step


class CudaGraphRecorder:
    """torch.cuda.graph. All graphs share one pool of memory: one runs at a time, its result is read before the next."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Tensor | None]) -> tuple[Callable[[], None], Tensor | None]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do meanwhile, such as loading an adapter, does not break the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = call()
        return graph.replay, result
