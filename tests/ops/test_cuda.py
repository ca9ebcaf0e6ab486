"""The CUDA operations: near the reference, the same bits however they are run.

Without a GPU they run under Triton's interpreter on small shapes (tests/conftest.py switches it on); with one, on it.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import exact_products
from ragged import Sequence, make_batch, make_rope, make_sequences

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from guardhouse.ops.cuda import CudaOps  # noqa: E402
from guardhouse.ops.gpu import activations, attention, w4a8  # noqa: E402
from guardhouse.ops.panels import activation_group_size  # noqa: E402
from guardhouse.ops.reference import ReferenceOps  # noqa: E402
from guardhouse.ops.table import Batch, DenseWeight, Float32, HeadLayout, Int4Weight, KVCache, RopeTable  # noqa: E402

# The interpreter computes in numpy, which warns of infinities and NaN that the device passes on silently.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
SPAN = attention.SPAN
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPS = CudaOps(DEVICE)
REFERENCE = ReferenceOps()


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        exact_products(monkeypatch)


def upload(values: Float32) -> "torch.Tensor":
    return torch.from_numpy(values.copy()).to(DEVICE)


def random_int4(rng: np.random.Generator, num_inputs: int, num_outputs: int, group_size: int) -> Int4Weight:
    groups = num_inputs // group_size
    return Int4Weight(
        rng.integers(0, 16, (num_inputs, num_outputs), dtype=np.uint8),
        rng.integers(0, 16, (groups, num_outputs), dtype=np.uint8),
        rng.uniform(0.001, 0.02, (groups, num_outputs)).astype(np.float16).astype(np.float32),
        rng.standard_normal(num_outputs, dtype=np.float32),
    )


def emulate(x: Float32, weight: Int4Weight) -> Float32:
    """W4A8 in numpy, in float64 beyond the integers."""
    group = activation_group_size(len(weight.codes) // len(weight.scales))
    repeats = len(weight.codes) // len(weight.scales) // group
    zeros, scales = np.repeat(weight.zeros, repeats, axis=0), np.repeat(weight.scales, repeats, axis=0)
    y = np.zeros((len(x), weight.codes.shape[1]))
    for index in range(len(scales)):
        part = x[:, index * group : (index + 1) * group]
        largest = np.abs(part).max(axis=1, keepdims=True)
        codes = np.rint(part * (np.float32(127) / largest)).astype(np.int64)
        centred = weight.codes[index * group : (index + 1) * group].astype(np.int64) - zeros[index]
        y += (largest / 127).astype(np.float64) * scales[index] * (codes @ centred)
    return (y + weight.bias).astype(np.float32)


@pytest.mark.parametrize(
    ("num_tokens", "num_inputs", "num_outputs", "group_size"),
    [(1, 256, 70, 128), (5, 512, 64, 64), (17, 1024, 130, 128), (70, 256, 64, 256)],
)
def test_w4a8_is_its_definition(num_tokens: int, num_inputs: int, num_outputs: int, group_size: int) -> None:
    rng = np.random.default_rng(num_tokens)
    weight = random_int4(rng, num_inputs, num_outputs, group_size)
    x = rng.standard_normal((num_tokens, num_inputs), dtype=np.float32)
    y = OPS.to_host(OPS.linear(upload(x), OPS.place(OPS.pack_int4(weight))))
    np.testing.assert_allclose(y, emulate(x, weight), rtol=1e-5, atol=1e-5)


def test_a_row_has_the_same_bits_alone_in_a_batch_in_every_tile_and_with_its_parts_side_by_side() -> None:
    rng = np.random.default_rng(0)
    weight = OPS.place(OPS.pack_int4(random_int4(rng, 1024, 64, 128)))
    x = upload(rng.standard_normal((18, 1024), dtype=np.float32))
    assert w4a8.groups_per_part(8, 64) < 8, "the case must have several parts"
    tiles = (w4a8.FEW, w4a8.SOME, w4a8.MANY)
    plans = [w4a8.Plan(tile, is_split) for tile in tiles for is_split in (False, True)]
    codes = activations.quantize(x, 128)
    together, *others = (OPS.to_host(w4a8.multiply(codes, weight.arrays, 64, plan)) for plan in plans)
    for other in others:
        np.testing.assert_array_equal(together, other)
    for row in (0, 17):
        np.testing.assert_array_equal(OPS.to_host(OPS.linear(x[row : row + 1].contiguous(), weight))[0], together[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(bad: float) -> None:
    rng = np.random.default_rng(1)
    weight = OPS.place(OPS.pack_int4(random_int4(rng, 128, 64, 128)))
    x = rng.standard_normal((3, 128), dtype=np.float32)
    clean = OPS.to_host(OPS.linear(upload(x), weight))
    x[1, 5] = bad
    y = OPS.to_host(OPS.linear(upload(x), weight))
    assert np.isnan(y[1]).all()
    np.testing.assert_array_equal(y[[0, 2]], clean[[0, 2]])


def test_a_group_of_zeros_gives_the_bias() -> None:
    weight = random_int4(np.random.default_rng(2), 128, 64, 128)
    y = OPS.linear(upload(np.zeros((2, 128), np.float32)), OPS.place(OPS.pack_int4(weight)))
    np.testing.assert_array_equal(OPS.to_host(y), np.stack([weight.bias, weight.bias]))


@pytest.mark.parametrize(("num_tokens", "num_inputs", "group"), [(1, 512, 128), (18, 384, 128), (3, 128, 64)])
def test_fused_neighbours_give_the_bits_of_their_parts(num_tokens: int, num_inputs: int, group: int) -> None:
    rng = np.random.default_rng(num_inputs)
    weight = OPS.place(OPS.pack_int4(random_int4(rng, num_inputs, 72, group)))
    x, norm = (
        upload(rng.standard_normal((num_tokens, num_inputs)).astype("f4")),
        upload(rng.random(num_inputs).astype("f4")),
    )
    gate_up, total = (upload(rng.standard_normal((num_tokens, n)).astype("f4")) for n in (2 * num_inputs, 72))
    normed = OPS.norm_linear(x, norm, 1e-5, weight)
    parts = OPS.to_host(OPS.linear(OPS.rms_norm(x, norm, 1e-5), weight))
    np.testing.assert_array_equal(OPS.to_host(normed), parts.astype(OPS.to_host(normed).dtype))
    for fused, parts in (
        (lambda y: OPS.add_linear_(y, x, weight), OPS.linear(x, weight)),
        (lambda y: OPS.add_gated_linear_(y, gate_up, weight), OPS.linear(OPS.silu_mul(gate_up), weight)),
    ):
        found, expected = total.clone(), total.clone()
        fused(found)
        OPS.add_(expected, parts)
        np.testing.assert_array_equal(OPS.to_host(found), OPS.to_host(expected))


def test_groups_that_the_kernel_does_not_take_are_multiplied_dense() -> None:
    rng = np.random.default_rng(3)
    weight = random_int4(rng, 96, 40, 32)
    packed = OPS.pack_int4(weight)
    assert packed.kind == "dense"
    x = rng.standard_normal((3, 96), dtype=np.float32)
    expected = REFERENCE.linear(x, REFERENCE.pack_int4(weight))
    np.testing.assert_allclose(OPS.to_host(OPS.linear(upload(x), OPS.place(packed))), expected, rtol=4e-3, atol=4e-3)


@pytest.mark.parametrize(("num_tokens", "num_inputs", "num_outputs"), [(1, 64, 100), (3, 200, 64), (66, 100, 30)])
def test_dense_products_are_near_the_reference(num_tokens: int, num_inputs: int, num_outputs: int) -> None:
    rng = np.random.default_rng(num_inputs)
    weight = DenseWeight(rng.standard_normal((num_outputs, num_inputs)).astype(np.float16), None)
    x = rng.standard_normal((num_tokens, num_inputs), dtype=np.float32)
    y = OPS.to_host(OPS.linear(upload(x), OPS.place(OPS.pack_dense(weight))))
    np.testing.assert_allclose(y, REFERENCE.linear(x, REFERENCE.pack_dense(weight)), atol=2e-3 * num_inputs**0.5)


def test_rows_are_near_the_reference() -> None:
    rng = np.random.default_rng(4)
    x, weight = rng.standard_normal((5, 100), dtype=np.float32), rng.standard_normal(100, dtype=np.float32)
    np.testing.assert_allclose(
        OPS.to_host(OPS.rms_norm(upload(x), OPS.array(weight), 1e-5)), REFERENCE.rms_norm(x, weight, 1e-5), rtol=1e-5
    )
    np.testing.assert_allclose(
        OPS.to_host(OPS.silu_mul(upload(x * 30))), REFERENCE.silu_mul(x * 30), rtol=1e-5, atol=1e-6
    )
    table = OPS.place(OPS.pack_dense(DenseWeight(x.astype(np.float16))))
    ids = np.array([4, 0, 4], np.int32)
    np.testing.assert_array_equal(OPS.to_host(OPS.embed(table, ids)), x.astype(np.float16)[ids].astype(np.float32))


Step = list[tuple[Sequence, int, int]]


def run(ops: CudaOps | ReferenceOps, steps: list[Step], layout: HeadLayout, cache: KVCache) -> dict[object, Float32]:
    """Rotate, store and attend step by step; rows by (sequence, position)."""
    tables = make_rope(512, layout.head_dim)
    rope = RopeTable(ops.array(tables.cos), ops.array(tables.sin))
    found: dict[object, Float32] = {}
    for spans in steps:
        qkv, batch = make_batch(spans, cache.block_size)
        queries = ops.rope_and_store(ops.array(qkv), rope, layout, cache, 0, batch)
        out = ops.to_host(ops.attention(queries, layout, cache, 0, batch))
        keys = [(id(span[0]), position) for span in spans for position in range(span[1], span[2])]
        found.update(zip(keys, out, strict=True))
    return found


@pytest.mark.parametrize(("layout", "block_size"), [(HeadLayout(2, 1, 16), 16), (HeadLayout(1, 1, 20), 8)])
def test_attention_has_the_same_bits_however_it_is_cut_and_is_near_the_reference(
    layout: HeadLayout, block_size: int
) -> None:
    rng = np.random.default_rng(block_size)
    sequences, num_blocks = make_sequences(rng, [70, 3, 20, 1], layout, block_size)
    whole = [[(sequence, 0, len(sequence.qkv)) for sequence in sequences]]
    first, second, third, fourth = sequences
    chunked: list[Step] = [
        [(third, 0, 20), (first, 0, 40), (second, 0, 2)],
        [(first, 40, 69), (fourth, 0, 1)],
        [(second, 2, 3), (first, 69, 70)],
    ]
    expected = run(REFERENCE, whole, layout, REFERENCE.allocate_cache(1, num_blocks, layout, block_size))
    rows = run(OPS, whole, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    again = run(OPS, chunked, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    for key, row in rows.items():
        np.testing.assert_array_equal(again[key], row)
        np.testing.assert_allclose(row, expected[key], atol=0.02)  # queries, keys, weights and values in 11 bits each


def test_a_walk_over_all_spans_gives_the_bits_of_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, block_size = HeadLayout(1, 1, 16), 16
    sequences, num_blocks = make_sequences(np.random.default_rng(7), [SPAN + 30, 70, 3], layout, block_size)
    long, medium, short = sequences
    steps: list[Step] = [
        [(long, 0, SPAN - 20)],
        [(long, SPAN - 20, SPAN + 30), (short, 0, 3), (medium, 0, 70)],
    ]
    found = {}
    for many_blocks in (1, 1000):
        monkeypatch.setattr(attention, "MANY_BLOCKS", many_blocks)
        _, batch = make_batch(steps[-1], block_size)
        work = attention.plan_work(batch, block_size)
        assert (work.walks.shape[1] > 0) == (many_blocks == 1)
        assert set(work.span_counts[50:53]) == {1}, "the short one has too few rows to be walked"
        found[many_blocks] = run(OPS, steps, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    for key, row in found[1000].items():
        np.testing.assert_array_equal(found[1][key], row)


def sharing(rng: np.random.Generator, layout: HeadLayout, block_size: int) -> tuple[list[Sequence], int]:
    """Three sequences whose first span of tokens is the same and lies in the same blocks."""
    sequences, num_blocks = make_sequences(rng, [SPAN + 5, SPAN + 3, SPAN + 9], layout, block_size)
    prefix, blocks = sequences[0].qkv[:SPAN], sequences[0].blocks[: SPAN // block_size]
    shared = [
        Sequence(np.concatenate([prefix, one.qkv[SPAN:]]), blocks + one.blocks[len(blocks) :]) for one in sequences
    ]
    return shared, num_blocks


def test_what_sequences_share_is_read_once_and_changes_no_bit() -> None:
    layout, block_size = HeadLayout(2, 1, 16), 16
    sequences, num_blocks = sharing(np.random.default_rng(9), layout, block_size)
    start: list[Step] = [[(sequences[0], 0, SPAN)]]
    together = [
        *start,
        [(one, SPAN, len(one.qkv) - 1) for one in sequences],
        [(one, len(one.qkv) - 1, len(one.qkv)) for one in sequences],
    ]
    alone = [*start, *([(one, SPAN, len(one.qkv))] for one in sequences)]
    _, batch = make_batch(together[-1], block_size)
    items = attention.plan_work(batch, block_size).items.T.tolist()
    assert [item for item in items if item[3] < SPAN] == [[0, 3, 0, 0, SPAN]], "one item for all three"
    rows = run(OPS, together, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    expected = run(OPS, alone, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    for key, row in expected.items():
        np.testing.assert_array_equal(rows[key], row)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, int]:
    """Sequences with some tokens cached, some new, neighbours with more or fewer blocks in common."""
    block_size = draw(st.sampled_from([8, 16, 64]))
    prefix = list(range(1000, 1000 + 1024 // block_size))
    tables, spans = [], []
    for seq in range(draw(st.integers(1, 6))):
        cached, new = draw(st.integers(0, 900)), draw(st.integers(1, 150))
        shared = draw(st.integers(0, cached)) // block_size
        own = range(seq * 200, seq * 200 + -(-(cached + new) // block_size) - shared)
        tables.append(prefix[:shared] + list(own))
        spans.append((cached, cached + new))
    max_blocks = max(map(len, tables))
    positions = np.concatenate([np.arange(*span, dtype=np.int32) for span in spans])
    batch = Batch(
        positions=positions,
        slot_mapping=positions,
        query_starts=np.cumsum([0] + [end - start for start, end in spans], dtype=np.int32),
        context_lens=np.array([end for _, end in spans], np.int32),
        block_tables=np.array([table + [-1] * (max_blocks - len(table)) for table in tables], np.int32),
    )
    return batch, block_size


@settings(max_examples=60, deadline=None)
@given(batches())
def test_every_row_meets_the_keys_up_to_its_own_once_and_in_its_own_blocks(case: tuple[Batch, int]) -> None:
    batch, block_size = case
    num_seqs, max_blocks = batch.block_tables.shape
    row_seq = np.repeat(np.arange(num_seqs), np.diff(batch.query_starts))
    met: dict[tuple[int, int], int] = {}
    work = attention.plan_work(batch, block_size)
    items = work.items.T.tolist()
    for *fields, first_key, end_key in work.walks.T.tolist():
        items += [[*fields, key, min(key + SPAN, end_key)] for key in range(first_key, end_key, SPAN)]
    for first_row, end_row, table, first_key, end_key in items:
        assert 0 < end_row - first_row <= attention.BLOCK_ROWS
        assert first_key % SPAN == 0
        assert 0 < end_key - first_key <= SPAN
        blocks = slice(first_key // block_size, -(-end_key // block_size))
        table_row = batch.block_tables[table // max_blocks]
        for row in range(first_row, end_row):
            met[row, first_key] = met.get((row, first_key), 0) + 1
            seen = slice(blocks.start, int(min(batch.positions[row] // block_size + 1, blocks.stop)))
            np.testing.assert_array_equal(table_row[seen], batch.block_tables[row_seq[row]][seen])
            assert end_key > min(batch.positions[row], first_key + SPAN - 1), "a key that the row sees is left out"
            assert end_key <= batch.context_lens[row_seq[row]], "a key that is not there yet"
    walked = {row for first, end, *_ in work.walks.T.tolist() for row in range(first, end)}
    counts = [0 if row in walked else last // SPAN + 1 for row, last in enumerate(batch.positions)]
    assert work.span_counts.tolist() == counts
    expected = {(row, key): 1 for row, last in enumerate(batch.positions) for key in range(0, last + 1, SPAN)}
    assert met.keys() >= expected.keys()
    assert set(met.values()) == {1}


def test_attention_is_blind_to_other_sequences_even_if_they_are_nan() -> None:
    layout, block_size = HeadLayout(2, 1, 16), 16
    (first, second), num_blocks = make_sequences(np.random.default_rng(5), [20, 30], layout, block_size)
    step: list[Step] = [[(first, 0, 20), (second, 0, 30)]]
    clean = run(OPS, step, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    second.qkv[3] = np.nan
    spoilt = run(OPS, step, layout, OPS.allocate_cache(1, num_blocks, layout, block_size))
    for position in range(20):
        np.testing.assert_array_equal(spoilt[id(first), position], clean[id(first), position])
    for position in range(30):
        assert np.isnan(spoilt[id(second), position]).all() == (position >= 3)


def test_blocks_go_to_the_host_and_back() -> None:
    layout = HeadLayout(2, 1, 8)
    cache = OPS.allocate_cache(2, 5, layout, 4)
    cache.keys[:, 3] = 7
    OPS.copy_block(cache, 3, 1)
    keys, values = OPS.export_blocks(cache, 1, np.array([1, 2], np.int32))
    assert keys.shape == values.shape == (2, 1, 4, 8)
    assert (keys[0] == 7).all()
    OPS.import_blocks(cache, 1, np.array([4, 0], np.int32), keys, values)
    assert (cache.keys[1, 4] == 7).all()
    assert (cache.keys[1, 0] == 0).all()
    assert (cache.keys[0, 4] == 0).all()
