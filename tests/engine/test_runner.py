"""A step plan becomes exactly the ragged batch that ops/table.py describes."""

from array import array

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.runner import build_batch
from guardhouse.engine.scheduler import Chunk
from guardhouse.engine.sequence import Sequence


def chunk_of(num_computed: int, num_new: int, block_table: list[int], rows: list[int]) -> Chunk:
    sequence = Sequence(0, array("i", range(100, 100 + num_computed + num_new)), wants_last=True)
    sequence.num_computed = num_computed
    sequence.block_table = array("i", block_table)
    return Chunk(sequence, num_new, rows)


def test_batch_has_the_layout_of_the_contract() -> None:
    chunks = [chunk_of(4, 3, [1, 5], [4, 6]), chunk_of(0, 1, [16, 3, 9], [])]
    token_ids, batch, rows = build_batch(chunks, block_size=4)
    expected: list[tuple[NDArray[np.int32], object]] = [
        (token_ids, [104, 105, 106, 100]),
        (batch.positions, [4, 5, 6, 0]),
        (batch.slot_mapping, [20, 21, 22, 64]),
        (batch.query_starts, [0, 3, 4]),
        (batch.context_lens, [7, 1]),
        (batch.block_tables, [[1, 5, -1], [16, 3, 9]]),
        (rows, [0, 2]),
    ]
    for found, wanted in expected:
        assert found.tolist() == wanted
        assert found.dtype == np.int32
        assert found.flags.c_contiguous


def test_chunk_across_blocks_starts_and_ends_anywhere() -> None:
    _, batch, _ = build_batch([chunk_of(2, 7, [7, 0, 2], [])], block_size=3)
    assert batch.slot_mapping.tolist() == [23, 0, 1, 2, 6, 7, 8]


def test_no_rows_are_an_empty_integer_array() -> None:
    _, _, rows = build_batch([chunk_of(0, 1, [0], [])], block_size=4)
    assert rows.shape == (0,)
    assert rows.dtype == np.int32
