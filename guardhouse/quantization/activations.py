"""What the linears of a dense model read while it runs over calibration tokens, one layer at a time.

Knows: the order in which a layer calls its linears; texts that share a beginning.
Never knows: how weights are quantised, files, text.

The model is the very one that serves (model/llama.py, over the reference operations); only `linear` also keeps its input.
A beginning that many texts share (a guard's policy) runs once; its keys and values stay in the cache for all of them.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from guardhouse.model.llama import Layer, Llama
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Batch, DenseWeight, Float32, Int32, KVCache, PackedLinear
from guardhouse.quantization.workers import Workers

NUM_SAMPLES = 512  # rows kept of each input, to measure output errors with
INPUTS = ("qkv", "output", "gate_up", "down")  # a layer's linears in the order in which they run


@dataclass(frozen=True, slots=True)
class CalibrationGroup:
    """Texts as token ids: what they share, once, and how each goes on."""

    prefix: Sequence[int]
    endings: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        return len(self.prefix) + sum(map(len, self.endings))


class RecordingOps(ReferenceOps):
    """The reference operations, and a list of what `linear` was given since `take`, one list per thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def pack_dense(self, weight: DenseWeight) -> PackedLinear:
        """In float32 once, not at every call."""
        return super().pack_dense(DenseWeight(weight.weight.astype(np.float32, copy=False), weight.bias))

    def linear(self, x: Float32, weight: PackedLinear) -> Float32:
        self._recorded().append(x)
        return super().linear(x, weight)

    def take(self) -> list[Float32]:
        inputs = self._recorded()
        self._of_thread.inputs = []
        return inputs

    def _recorded(self) -> list[Float32]:
        if not hasattr(self._of_thread, "inputs"):
            self._of_thread.inputs = []
        inputs: list[Float32] = self._of_thread.inputs
        return inputs


class InputStatistics:
    """What is kept of one linear's input: mean sizes, group-wise second moments, some rows."""

    def __init__(self, num_features: int, group_size: int) -> None:
        self._sum_abs = np.zeros(num_features)
        self._moments = np.zeros((num_features // group_size, group_size, group_size))
        self._samples: list[Float32] = []
        self._num_rows = 0

    def add(self, x: Float32, is_sample: NDArray[np.bool_]) -> None:
        """x: [T, in]."""
        self._sum_abs += np.abs(x).sum(axis=0, dtype=np.float64)
        groups = x.reshape(len(x), *self._moments.shape[:2]).transpose(1, 2, 0)  # [groups, group_size, T]
        self._moments += groups @ groups.transpose(0, 2, 1)
        self._samples.append(x[is_sample])
        self._num_rows += len(x)

    @property
    def mean_abs(self) -> Float32:
        """[in]"""
        return (self._sum_abs / self._num_rows).astype(np.float32)

    @property
    def moments(self) -> Float32:
        """[groups, group_size, group_size]: sums of x_i * x_j over all tokens, within each group of inputs."""
        return self._moments.astype(np.float32)

    @property
    def samples(self) -> Float32:
        """[at most NUM_SAMPLES, in]"""
        return np.concatenate(self._samples)


def embed_tokens(model: Llama, groups: Sequence[CalibrationGroup]) -> Float32:
    """What the first layer reads: [T, hidden], the segments of `run_layer` end to end."""
    ids = [token for group in groups for part in (group.prefix, *group.endings) for token in part]
    hidden: Float32 = model.embed(np.array(ids, np.int32))
    return hidden


def run_layer(
    model: Llama, layer: Layer, x: Float32, groups: Sequence[CalibrationGroup], group_size: int, workers: Workers
) -> dict[str, InputStatistics]:
    """One layer over all tokens, x: [T, hidden], in place. Returns what its linears read, by the names in INPUTS."""
    config = model.config
    widths = (config.hidden_size, config.num_heads * config.head_dim, config.hidden_size, config.intermediate_size)
    statistics = {name: InputStatistics(width, group_size) for name, width in zip(INPUTS, widths, strict=True)}
    step = -(-len(x) // NUM_SAMPLES)
    for start, recorded in run_segments(model, layer, x, groups, workers):
        is_sample = np.arange(start, start + len(recorded[0])) % step == 0
        for name, inputs in zip(INPUTS, recorded, strict=True):
            statistics[name].add(inputs, is_sample)
    return statistics


def run_segments(
    model: Llama, layer: Layer, x: Float32, groups: Sequence[CalibrationGroup], workers: Workers
) -> Iterator[tuple[int, Sequence[Float32]]]:
    """One layer over all tokens, in place; per segment its first row and what its linears read.

    Endings run side by side, each worker with its own copy of the prefix's keys and values; they are handed over in the
    order of the texts, so that sums over them have the same bits whatever the number of threads.
    """
    one = model.with_layers([layer])
    start = 0
    for group in groups:
        cache = model.ops.allocate_cache(1, _longest(group), model.layout, block_size=1)
        if group.prefix:
            yield start, _run(one, x[start : start + len(group.prefix)], cache, 0)
        start += len(group.prefix)
        caches: SimpleQueue[KVCache] = SimpleQueue()
        for _ in range(workers.count):
            caches.put(KVCache(cache.keys.copy(), cache.values.copy(), 1))
        starts = [start, *(start + np.cumsum([len(ending) for ending in group.endings])).tolist()]
        run = partial(_run_ending, one, caches, len(group.prefix))
        parts = [x[begin:end] for begin, end in pairwise(starts)]
        yield from zip(starts, workers.pool.map(run, parts), strict=False)
        start = starts[-1]


def few_texts(groups: Sequence[CalibrationGroup], num_endings: int) -> tuple[list[CalibrationGroup], NDArray[np.intp]]:
    """Of each group the prefix and at most `num_endings` endings from all over it; and their rows of x."""
    chosen, rows, start = [], [], 0
    for group in groups:
        step = -(-len(group.endings) // num_endings)
        starts = np.cumsum([start + len(group.prefix), *map(len, group.endings)])
        chosen.append(CalibrationGroup(group.prefix, group.endings[::step]))
        rows.append(np.arange(start, starts[0]))
        rows += [np.arange(begin, end) for begin, end in list(pairwise(starts))[::step]]
        start = int(starts[-1])
    return chosen, np.concatenate(rows)


def _run_ending(model: Llama, caches: "SimpleQueue[KVCache]", position: int, x: Float32) -> Sequence[Float32]:
    cache = caches.get()
    try:
        return _run(model, x, cache, position)
    finally:
        caches.put(cache)


def _run(model: Llama, x: Float32, cache: KVCache, position: int) -> Sequence[Float32]:
    ops = model.ops
    assert isinstance(ops, RecordingOps)
    ops.take()
    model.run_layer(x, 0, cache, _batch(position, len(x)))
    return ops.take()


def _longest(group: CalibrationGroup) -> int:
    return len(group.prefix) + max(map(len, group.endings), default=0)


def _batch(position: int, length: int) -> Batch:
    """One sequence whose earlier tokens lie in slots 0 .. position - 1."""
    positions: Int32 = np.arange(position, position + length, dtype=np.int32)
    slots: Int32 = np.arange(position + length, dtype=np.int32)
    return Batch(
        positions=positions,
        slot_mapping=positions,
        query_starts=np.array([0, length], np.int32),
        context_lens=np.array([position + length], np.int32),
        block_tables=slots[None],
    )
