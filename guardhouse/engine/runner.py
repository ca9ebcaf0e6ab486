"""Run one planned step on the model.

Knows: the model, its KV cache, how a plan becomes a ragged batch.
Never knows: requests, futures, sampling, why a sequence was chosen.
"""

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.kv_cache import Layer, PrefixFile
from guardhouse.engine.scheduler import Chunk, StepPlan
from guardhouse.engine.sequence import IntArray
from guardhouse.ops.table import Batch, Int32, KVCache

Float32 = NDArray[np.float32]


class ModelConfig(Protocol):
    """The part of a model's configuration that the engine reads."""

    @property
    def vocab_size(self) -> int: ...


class CacheOps(Protocol):
    """The part of `ops.table.Ops` that the engine uses."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def copy_block(self, cache: KVCache, source: int, target: int) -> None: ...

    def export_blocks(self, cache: KVCache, layer: int, blocks: Int32) -> tuple[NDArray[Any], NDArray[Any]]: ...

    def import_blocks(
        self, cache: KVCache, layer: int, blocks: Int32, keys: NDArray[Any], values: NDArray[Any]
    ) -> None: ...


class Model(Protocol):
    """The part of `model.llama.Llama` that the engine uses."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def ops(self) -> CacheOps: ...

    @property
    def max_positions(self) -> int: ...

    def allocate_cache(self, num_blocks: int, block_size: int) -> KVCache: ...

    def forward(
        self, token_ids: Int32, batch: Batch, cache: KVCache, rows: Int32, adapters: Sequence[Any] = ()
    ) -> Float32: ...


class Runner:
    """Owns the KV cache's arrays."""

    def __init__(self, model: Model, num_blocks: int, block_size: int) -> None:
        self._model = model
        self._cache = model.allocate_cache(num_blocks, block_size)

    def run(self, plan: StepPlan) -> Float32:
        """The logits at every chunk's row positions, chunk after chunk: [rows, vocab]."""
        for copy in plan.copies:
            self._model.ops.copy_block(self._cache, copy.source, copy.target)
        token_ids, batch, rows = build_batch(plan.chunks, self._cache.block_size)
        adapters = [chunk.sequence.adapter for chunk in plan.chunks]
        return self._model.forward(token_ids, batch, self._cache, rows, adapters)

    def save_prefix(self, block_table: IntArray, file: PrefixFile) -> None:
        """Write the blocks' keys and values, one layer at a time."""
        ops, cache, blocks = self._model.ops, self._cache, np.array(block_table)
        file.save(ops.export_blocks(cache, layer, blocks) for layer in range(len(cache.keys)))

    def load_prefix(self, block_table: IntArray, file: PrefixFile) -> bool:
        """Fill the blocks from a file, one layer at a time. False if it does not hold them: they mean nothing then."""
        ops, cache, blocks = self._model.ops, self._cache, np.array(block_table)

        def put(layer: int, saved: Layer) -> None:
            ops.import_blocks(cache, layer, blocks, *saved)

        num_layers, _, *rest = cache.keys.shape
        return file.load((num_layers, len(blocks), *rest), put)


def build_batch(chunks: list[Chunk], block_size: int) -> tuple[Int32, Batch, Int32]:
    """Token ids [T], the batch, and which of the T rows need logits.

    Built in `array`s of C ints, which extend from ranges and slices and become numpy arrays by one copy each: cheaper
    than numpy calls per sequence when the chunks are single tokens.
    """
    token_ids, positions, slots, rows = array("i"), array("i"), array("i"), array("i")
    query_starts, context_lens = array("i", [0]), array("i")
    max_blocks = max(len(chunk.sequence.block_table) for chunk in chunks)
    block_tables = np.full((len(chunks), max_blocks), -1, dtype=np.int32)
    for index, chunk in enumerate(chunks):
        sequence = chunk.sequence
        start = sequence.num_computed
        end = start + chunk.num_tokens
        first_row = len(token_ids) - start  # the row of position p is first_row + p
        token_ids.extend(sequence.tokens[start:end])
        positions.extend(range(start, end))
        _extend_slots(slots, sequence.block_table, start, end, block_size)
        rows.extend(first_row + position for position in chunk.row_positions)
        query_starts.append(len(token_ids))
        context_lens.append(end)
        block_tables[index, : len(sequence.block_table)] = sequence.block_table
    batch = Batch(
        positions=np.array(positions),
        slot_mapping=np.array(slots),
        query_starts=np.array(query_starts),
        context_lens=np.array(context_lens),
        block_tables=block_tables,
    )
    return np.array(token_ids), batch, np.array(rows)


def _extend_slots(slots: IntArray, block_table: IntArray, start: int, end: int, block_size: int) -> None:
    """Append block * block_size + offset for every position in start .. end - 1, a block at a time."""
    position = start
    while position < end:
        index, offset = divmod(position, block_size)
        stop = min(end, (index + 1) * block_size)
        slot = block_table[index] * block_size + offset
        slots.extend(range(slot, slot + stop - position))
        position = stop
