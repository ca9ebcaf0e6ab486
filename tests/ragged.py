"""Random ragged batches over a paged cache, for tests of attention."""

from dataclasses import dataclass

import numpy as np

from guardhouse.ops.table import Batch, Float32, HeadLayout, RopeTable


@dataclass(frozen=True)
class Sequence:
    """One sequence's whole qkv rows and the blocks that hold it."""

    qkv: Float32  # [length, (heads + 2 * kv_heads) * head_dim], not yet rotated
    blocks: list[int]


def make_sequences(
    rng: np.random.Generator, lengths: list[int], layout: HeadLayout, block_size: int
) -> tuple[list[Sequence], int]:
    """Sequences in scattered blocks, and the number of blocks that the cache needs."""
    counts = [-(-length // block_size) for length in lengths]
    num_blocks = sum(counts) + 2
    shuffled = [int(block) for block in rng.permutation(num_blocks)]
    width = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    sequences = []
    for length, count in zip(lengths, counts, strict=True):
        blocks, shuffled = shuffled[:count], shuffled[count:]
        sequences.append(Sequence(rng.standard_normal((length, width), dtype=np.float32), blocks))
    return sequences, num_blocks


def make_batch(spans: list[tuple[Sequence, int, int]], block_size: int) -> tuple[Float32, Batch]:
    """The rows begin .. end of some sequences, laid end to end: copies of their qkv, and their batch."""
    max_blocks = max(len(sequence.blocks) for sequence, _, _ in spans)
    tables = [sequence.blocks + [-1] * (max_blocks - len(sequence.blocks)) for sequence, _, _ in spans]
    positions = [position for _, begin, end in spans for position in range(begin, end)]
    slots = [
        sequence.blocks[position // block_size] * block_size + position % block_size
        for sequence, begin, end in spans
        for position in range(begin, end)
    ]
    batch = Batch(
        positions=np.array(positions, np.int32),
        slot_mapping=np.array(slots, np.int32),
        query_starts=np.cumsum([0] + [end - begin for _, begin, end in spans], dtype=np.int32),
        context_lens=np.array([end for _, _, end in spans], np.int32),
        block_tables=np.array(tables, np.int32),
    )
    return np.concatenate([sequence.qkv[begin:end] for sequence, begin, end in spans]), batch


def make_rope(max_positions: int, head_dim: int) -> RopeTable:
    """Plain rotary tables, theta 10,000."""
    frequencies = 10_000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.outer(np.arange(max_positions), frequencies)
    return RopeTable(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
