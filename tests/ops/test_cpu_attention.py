"""The C kernels' attention: equal bit for bit however a sequence is cut, near the reference, blind to other tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged import Sequence, make_batch, make_rope, make_sequences

from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.native import native_library_path
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Batch, Float32, HeadLayout, KVCache

if native_library_path() is None:
    pytest.skip("the native kernels were not compiled", allow_module_level=True)

VARIANTS = [CpuOps(1, isa="portable"), CpuOps(1), CpuOps(2), CpuOps(3)]

layouts = st.builds(
    lambda kv_heads, ratio, half_dim: HeadLayout(kv_heads * ratio, kv_heads, 2 * half_dim),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 4, 7, 30]),
    st.sampled_from([1, 3, 4, 8, 13, 20]),
)
block_sizes = st.sampled_from([1, 3, 16, 32, 40])
lengths = st.lists(st.integers(1, 80), min_size=1, max_size=4)


def run_steps(
    ops: CpuOps | ReferenceOps, steps: list[list[tuple[Sequence, int, int]]], layout: HeadLayout, cache: KVCache
) -> dict[tuple[int, int], Float32]:
    """Rotate, store and attend step by step; rows by (last block of the sequence, position)."""
    rope = make_rope(160, layout.head_dim)
    rows: dict[tuple[int, int], Float32] = {}
    for spans in steps:
        qkv, batch = make_batch(spans, cache.block_size)
        queries = ops.rope_and_store(qkv, rope, layout, cache, 0, batch)
        out = ops.attention(queries, layout, cache, 0, batch)
        owners = [(span[0].blocks[-1], position) for span in spans for position in range(span[1], span[2])]
        rows.update(zip(owners, out, strict=True))
    return rows


def whole(sequences: list[Sequence]) -> list[list[tuple[Sequence, int, int]]]:
    return [[(sequence, 0, len(sequence.qkv)) for sequence in sequences]]


def chunked(rng: np.random.Generator, sequences: list[Sequence]) -> list[list[tuple[Sequence, int, int]]]:
    """Random chunks of random sequences in random order, each sequence from its start to its end."""
    done = dict.fromkeys(range(len(sequences)), 0)
    steps = []
    while done:
        chosen = [index for index in done if rng.random() < 0.7]
        spans = []
        for index in rng.permutation(np.array(chosen, int)):
            begin = done[int(index)]
            end = min(begin + int(rng.integers(1, 30)), len(sequences[index].qkv))
            spans.append((sequences[index], begin, end))
            done[int(index)] = end
            if end == len(sequences[index].qkv):
                del done[int(index)]
        if spans:
            steps.append(spans)
    return steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), layouts, block_sizes, lengths)
def test_attention_has_the_same_bits_however_it_is_run_and_is_near_the_reference(
    seed: int, layout: HeadLayout, block_size: int, lengths: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    sequences, num_blocks = make_sequences(rng, lengths, layout, block_size)
    reference = ReferenceOps()
    cache = reference.allocate_cache(1, num_blocks, layout, block_size)
    expected = run_steps(reference, whole(sequences), layout, cache)
    first: dict[tuple[int, int], Float32] | None = None
    for ops in VARIANTS:
        for steps in (whole(sequences), chunked(rng, sequences)):
            cache = ops.allocate_cache(1, num_blocks, layout, block_size)
            rows = run_steps(ops, steps, layout, cache)
            first = first if first is not None else rows
            for key, row in rows.items():
                np.testing.assert_array_equal(row.view(np.uint32), first[key].view(np.uint32))
                # keys and values are rounded to 11 bits: 2^-11 relative each, scores and values of a few units
                np.testing.assert_allclose(row, expected[key], atol=0.01)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    block_sizes,
    st.integers(1, 100),
    st.lists(st.integers(1, 30), min_size=2, max_size=6),
)
def test_sequences_behind_a_shared_prefix_have_the_bits_they_have_alone(
    seed: int, block_size: int, num_shared: int, lengths: list[int]
) -> None:
    rng, layout = np.random.default_rng(seed), HeadLayout(4, 2, 16)
    num_shared = -(-num_shared // block_size) * block_size  # whole blocks: the others are each sequence's own
    sequences, num_blocks = make_sequences(rng, [num_shared + length for length in lengths], layout, block_size)
    for sequence in sequences[1:]:
        sequence.qkv[:num_shared] = sequences[0].qkv[:num_shared]
        sequence.blocks[: num_shared // block_size] = sequences[0].blocks[: num_shared // block_size]
    for ops in VARIANTS:
        cache = ops.allocate_cache(1, num_blocks, layout, block_size)
        spans = [(sequence, num_shared, len(sequence.qkv)) for sequence in sequences]
        together = run_steps(ops, [[(sequences[0], 0, num_shared)], spans], layout, cache)
        alone = run_steps(ops, [[span] for span in spans], layout, cache)
        assert len(alone) == sum(lengths)
        for key, row in alone.items():
            np.testing.assert_array_equal(row.view(np.uint32), together[key].view(np.uint32))


def test_attention_is_blind_to_other_sequences_and_later_tokens_even_if_they_are_nan() -> None:
    layout, block_size = HeadLayout(4, 2, 16), 16
    (first, second), num_blocks = make_sequences(np.random.default_rng(0), [75, 40], layout, block_size)
    for ops in VARIANTS:
        clean = run_steps(ops, whole([first, second]), layout, ops.allocate_cache(1, num_blocks, layout, block_size))
        poisoned = Sequence(first.qkv.copy(), first.blocks)
        poisoned.qkv[50] = np.nan
        cache = ops.allocate_cache(1, num_blocks, layout, block_size)
        rows = run_steps(ops, whole([poisoned, second]), layout, cache)
        for (block, position), row in rows.items():
            if block == first.blocks[-1] and position >= 50:
                assert np.isnan(row).all()
            else:
                np.testing.assert_array_equal(row, clean[block, position])


@pytest.mark.parametrize("ops", VARIANTS[:2], ids=lambda ops: ops.isa)
def test_cached_values_are_rounded_to_float16_as_numpy_rounds(ops: CpuOps) -> None:
    layout = HeadLayout(1, 1, 1000)
    rng = np.random.default_rng(1)
    magnitudes = 2.0 ** rng.uniform(-26, 17, (64, 1000))
    sequence = Sequence(np.zeros((64, 3000), np.float32), [0])
    sequence.qkv[:, 2000:] = magnitudes * rng.choice([-1, 1], magnitudes.shape)
    sequence.qkv[0, 2000:2006] = [65519, 65520, -1e30, np.inf, 2.0**-25, 2.0**-24 * 1.5]
    qkv, batch = make_batch([(sequence, 0, 64)], 64)
    cache = ops.allocate_cache(1, 1, layout, 64)
    ops.rope_and_store(qkv, make_rope(64, 1000), layout, cache, 0, batch)
    with np.errstate(over="ignore"):
        expected = sequence.qkv[:, 2000:].astype(np.float16)
    np.testing.assert_array_equal(cache.values[0, 0, 0], expected)


def damaged_batches() -> list[Batch]:
    layout = HeadLayout(1, 1, 2)
    (sequence,), _ = make_sequences(np.random.default_rng(2), [5], layout, 2)
    _, good = make_batch([(sequence, 0, 5)], 2)
    fields = {name: getattr(good, name) for name in Batch.__slots__}
    damage = [
        ("positions", [0, 1, 2, 3, 5]),
        ("query_starts", [0, 6]),
        ("query_starts", [1, 5]),
        ("context_lens", [4]),
        ("context_lens", [9]),
        ("block_tables", [[0, 1, -1]]),
        ("block_tables", [[0, 1, 99]]),
        ("block_tables", [[0]]),
    ]
    return [Batch(**(fields | {name: np.array(value, np.int32)})) for name, value in damage]


@pytest.mark.parametrize("batch", damaged_batches())
def test_a_batch_that_points_outside_the_cache_is_an_error(batch: Batch) -> None:
    layout = HeadLayout(1, 1, 2)
    for ops in VARIANTS:
        cache = ops.allocate_cache(1, 5, layout, 2)
        with pytest.raises(IndexError):
            ops.attention(np.zeros((5, 6), np.float32), layout, cache, 0, batch)


@pytest.mark.parametrize(("position", "slot"), [(-1, 0), (8, 0), (0, -1), (0, 10)])
def test_storing_outside_the_cache_or_rope_table_is_an_error(position: int, slot: int) -> None:
    layout = HeadLayout(1, 1, 2)
    one = np.ones(1, np.int32)
    batch = Batch(one * position, one * slot, np.array([0, 1], np.int32), one, np.zeros((1, 1), np.int32))
    for ops in VARIANTS:
        cache = ops.allocate_cache(1, 5, layout, 2)
        with pytest.raises(IndexError):
            ops.rope_and_store(np.zeros((1, 6), np.float32), make_rope(8, 2), layout, cache, 0, batch)


def test_blocks_survive_export_import_and_copy() -> None:
    ops, layout = VARIANTS[2], HeadLayout(2, 2, 4)
    cache = ops.allocate_cache(3, 6, layout, 2)
    assert cache.keys.dtype == np.float16
    shape = (3, 2, 2, 2, 4)
    keys = np.random.default_rng(3).standard_normal(shape).astype(np.float16)
    for layer in range(3):
        ops.import_blocks(cache, layer, np.array([4, 1], np.int32), keys[layer], -keys[layer])
    ops.copy_block(cache, 4, 0)
    for layer in range(3):
        exported_keys, exported_values = ops.export_blocks(cache, layer, np.array([0, 1], np.int32))
        np.testing.assert_array_equal(exported_keys, keys[layer])
        np.testing.assert_array_equal(exported_values, -keys[layer])
