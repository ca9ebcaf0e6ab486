"""A model whose logits are an exact function of the tokens it finds in its cache: any misuse of a block shows.

Knows: the layout of a batch and of a paged cache.
Never knows: the engine.

The "key" of a token is its id + 1, its "value" its position, so an unwritten slot, a wrong block, a missing copy or a
wrong position changes or stops every result that depends on it. Under an adapter, 1000 times its number is added to both
keys and tokens: a block that was computed under another adapter changes every result, too.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.ops.table import Batch, Float32, Int32, KVCache

VOCAB_SIZE = 50


@dataclass(frozen=True)
class FakeConfig:
    vocab_size: int = VOCAB_SIZE


@dataclass(frozen=True)
class FakeOps:
    name: str = "fake"
    version: str = "1"

    def copy_block(self, cache: KVCache, source: int, target: int) -> None:
        cache.keys[:, target] = cache.keys[:, source]
        cache.values[:, target] = cache.values[:, source]

    def export_blocks(self, cache: KVCache, layer: int, blocks: Int32) -> tuple[NDArray[Any], NDArray[Any]]:
        return cache.keys[layer, blocks], cache.values[layer, blocks]

    def import_blocks(
        self, cache: KVCache, layer: int, blocks: Int32, keys: NDArray[Any], values: NDArray[Any]
    ) -> None:
        cache.keys[layer, blocks] = keys
        cache.values[layer, blocks] = values


@dataclass(frozen=True)
class FakeAdapter:
    number: int

    @property
    def fingerprint(self) -> str:
        return f"adapter {self.number}"


class FakeModel:
    """Counts its steps. `gate` holds every step until it is set; `failures` makes the next steps fail."""

    def __init__(self) -> None:
        self.config = FakeConfig()
        self.ops = FakeOps()
        self.max_positions = 10_000
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()  # a step has begun
        self.failures = 0
        self.poison: int | None = None  # rows whose history holds this token are NaN
        self.step_sizes: list[int] = []  # tokens per step

    def allocate_cache(self, num_blocks: int, block_size: int) -> KVCache:
        shape = (1, num_blocks, 1, block_size, 1)
        return KVCache(np.zeros(shape, np.float32), np.zeros(shape, np.float32), block_size)

    def forward(
        self, token_ids: Int32, batch: Batch, cache: KVCache, rows: Int32, adapters: Sequence[Any] = ()
    ) -> Float32:
        self.started.set()
        assert self.gate.wait(60)
        self.step_sizes.append(len(token_ids))
        if self.failures:
            self.failures -= 1
            raise ArithmeticError("the fake device is on fire")
        keys, values = cache.keys.reshape(-1), cache.values.reshape(-1)  # views
        numbers = np.array(
            [adapter.number if adapter else 0 for adapter in adapters or [None] * len(batch.context_lens)]
        )
        keys[batch.slot_mapping] = token_ids + 1 + 1000 * np.repeat(numbers, np.diff(batch.query_starts))
        values[batch.slot_mapping] = batch.positions
        logits = np.empty((len(rows), VOCAB_SIZE), np.float32)
        for index, row in enumerate(rows):
            sequence = int(np.searchsorted(batch.query_starts, row, side="right")) - 1
            position = int(batch.positions[row])
            slots = slots_of(batch.block_tables[sequence], position + 1, cache.block_size)
            assert np.array_equal(values[slots], np.arange(position + 1)), "the cache holds other positions"
            logits[index] = self.logits_after(keys[slots].astype(int) - 1)
        return logits

    def logits_after(self, tokens: NDArray[Any]) -> Float32:
        """What a correct engine must report after exactly these tokens."""
        if self.poison is not None and self.poison in tokens:
            return np.full(VOCAB_SIZE, np.nan, np.float32)
        digest = hashlib.sha256(np.asarray(tokens, np.int64).tobytes()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        return generator.normal(size=VOCAB_SIZE).astype(np.float32)


def slots_of(block_table: Int32, num_tokens: int, block_size: int) -> NDArray[np.int64]:
    positions = np.arange(num_tokens)
    return block_table.astype(np.int64)[positions // block_size] * block_size + positions % block_size
