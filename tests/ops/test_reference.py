"""The specification itself, against formulas written out another way."""

import numpy as np
import pytest
from ragged import make_batch, make_rope, make_sequences

from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import DenseWeight, Float32, HeadLayout, Int4Weight, RopeTable

OPS = ReferenceOps()


def test_int4_linear_is_the_product_with_dequantised_weights() -> None:
    weight = Int4Weight(
        codes=np.array([[0, 15], [3, 4], [8, 8], [1, 2]], np.uint8),
        zeros=np.array([[1, 2], [8, 0]], np.uint8),
        scales=np.array([[0.5, 2.0], [1.0, 0.25]], np.float32),
        bias=np.array([10, 20], np.float32),
    )
    x = np.array([[1, 2, 3, 4]], np.float32)
    by_hand = [
        1 * (0 - 1) * 0.5 + 2 * (3 - 1) * 0.5 + 3 * (8 - 8) + 4 * (1 - 8) + 10,
        1 * (15 - 2) * 2 + 2 * (4 - 2) * 2 + 3 * 8 * 0.25 + 4 * 2 * 0.25 + 20,
    ]
    np.testing.assert_array_equal(OPS.linear(x, OPS.pack_int4(weight)), [by_hand])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dense_weight_is_a_transposed_product_and_a_table(dtype: type) -> None:
    table = OPS.pack_dense(DenseWeight(np.arange(6).reshape(3, 2).astype(dtype), np.ones(3, np.float32)))
    np.testing.assert_array_equal(OPS.linear(np.array([[1, 10]], np.float32), table), [[11, 33, 55]])
    rows = OPS.embed(table, np.array([2, 0], np.int32))
    np.testing.assert_array_equal(rows, [[4, 5], [0, 1]])
    assert rows.dtype == np.float32


@pytest.mark.parametrize("token_id", [-1, 3])
def test_token_outside_the_table_is_an_error(token_id: int) -> None:
    table = OPS.pack_dense(DenseWeight(np.zeros((3, 2), np.float32)))
    with pytest.raises(IndexError):
        OPS.embed(table, np.array([token_id], np.int32))


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    normed = OPS.rms_norm(np.array([[3, 4]], np.float32), np.array([1, 2], np.float32), 0.0)
    np.testing.assert_allclose(normed, [[3 / np.sqrt(12.5), 8 / np.sqrt(12.5)]], rtol=1e-6)


def test_silu_mul_takes_the_gate_first_and_does_not_overflow() -> None:
    result = OPS.silu_mul(np.array([[1, -1000, 5, 7]], np.float32))
    np.testing.assert_allclose(result, [[5 / (1 + np.exp(-1)), 0]], rtol=1e-6)


def test_rotation_is_a_complex_product_of_first_and_second_half() -> None:
    layout, rope = HeadLayout(1, 1, 4), make_rope(8, 4)
    sequences, num_blocks = make_sequences(np.random.default_rng(0), [8], layout, 4)
    qkv, batch = make_batch([(sequences[0], 0, 8)], 4)
    before = qkv.copy()
    OPS.rope_and_store(qkv, rope, layout, OPS.allocate_cache(1, num_blocks, layout, 4), 0, batch)
    halves = before.reshape(8, 3, 2, 2)
    turned = (halves[:, :2, 0] + 1j * halves[:, :2, 1]) * (rope.cos + 1j * rope.sin)[:, None]
    np.testing.assert_allclose(qkv.reshape(8, 3, 2, 2)[:, :2, 0], turned.real, atol=1e-6)
    np.testing.assert_allclose(qkv.reshape(8, 3, 2, 2)[:, :2, 1], turned.imag, atol=1e-6)
    np.testing.assert_array_equal(qkv[:, 8:], before[:, 8:])


def attention_by_loops(qkv: Float32, layout: HeadLayout) -> Float32:
    """One whole sequence, key by key, in float64."""
    heads = qkv.astype(np.float64).reshape(len(qkv), -1, layout.head_dim)
    out = np.zeros((len(qkv), layout.num_heads, layout.head_dim))
    for token in range(len(qkv)):
        for head in range(layout.num_heads):
            kv_head = layout.num_heads + head * layout.num_kv_heads // layout.num_heads
            keys = heads[: token + 1, kv_head]
            values = heads[: token + 1, kv_head + layout.num_kv_heads]
            weights = np.exp(keys @ heads[token, head] / np.sqrt(layout.head_dim))
            out[token, head] = weights @ values / weights.sum()
    return out.reshape(len(qkv), -1).astype(np.float32)


def test_attention_reads_its_own_sequence_up_to_its_own_position() -> None:
    layout, block_size = HeadLayout(4, 2, 6), 4
    sequences, num_blocks = make_sequences(np.random.default_rng(1), [9, 5, 1], layout, block_size)
    cache = OPS.allocate_cache(2, num_blocks, layout, block_size)
    rope = RopeTable(np.ones((16, 3), np.float32), np.zeros((16, 3), np.float32))  # no rotation
    qkv, batch = make_batch([(sequence, 0, len(sequence.qkv)) for sequence in sequences], block_size)
    queries = OPS.rope_and_store(qkv, rope, layout, cache, 1, batch)
    expected = np.concatenate([attention_by_loops(sequence.qkv, layout) for sequence in sequences])
    np.testing.assert_allclose(OPS.attention(queries, layout, cache, 1, batch), expected, atol=1e-5)


def test_later_tokens_attend_to_cached_ones() -> None:
    layout, block_size = HeadLayout(2, 1, 4), 4
    (sequence,), num_blocks = make_sequences(np.random.default_rng(2), [11], layout, block_size)
    cache = OPS.allocate_cache(1, num_blocks, layout, block_size)
    rope = RopeTable(np.ones((16, 2), np.float32), np.zeros((16, 2), np.float32))

    def attend(begin: int, end: int) -> Float32:
        qkv, batch = make_batch([(sequence, begin, end)], block_size)
        queries = OPS.rope_and_store(qkv, rope, layout, cache, 0, batch)
        return OPS.attention(queries, layout, cache, 0, batch)

    rows = np.concatenate([attend(0, 6), attend(6, 7), attend(7, 11)])
    np.testing.assert_allclose(rows, attention_by_loops(sequence.qkv, layout), atol=1e-5)


def test_exported_blocks_come_back_and_copies_reach_every_layer() -> None:
    layout = HeadLayout(2, 2, 4)
    cache = OPS.allocate_cache(3, 6, layout, 2)
    rng = np.random.default_rng(3)
    shape = (3, 2, 2, 2, 4)
    keys, values = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
    blocks = np.array([4, 1], np.int32)
    for layer in range(3):
        OPS.import_blocks(cache, layer, blocks, keys[layer], values[layer])
    OPS.copy_block(cache, 4, 0)
    for layer in range(3):
        exported_keys, exported_values = OPS.export_blocks(cache, layer, np.array([0, 1], np.int32))
        np.testing.assert_array_equal(exported_keys, keys[layer])
        np.testing.assert_array_equal(exported_values, values[layer])
