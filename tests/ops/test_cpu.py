"""The C kernels' linear products and rows: the same bits however they are run, near the reference."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.native import native_library_path
from guardhouse.ops.panels import activation_group_size
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import DenseWeight, Float32, Int4Weight

if native_library_path() is None:
    pytest.skip("the native kernels were not compiled", allow_module_level=True)

CPUINFO = Path("/proc/cpuinfo")
REFERENCE = ReferenceOps()
PLAIN = CpuOps(1, isa="portable")
VARIANTS = [PLAIN, CpuOps(2, isa="portable"), CpuOps(1), CpuOps(2), CpuOps(3)]  # the last three: best of this machine

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 70)


def random_int4(rng: np.random.Generator, group_size: int, num_groups: int, num_outputs: int) -> Int4Weight:
    stored = rng.choice([np.float16, np.float32])  # AWQ's scales are float16; others are kept as float32
    return Int4Weight(
        codes=rng.integers(0, 16, (group_size * num_groups, num_outputs), dtype=np.uint8),
        zeros=rng.integers(0, 16, (num_groups, num_outputs), dtype=np.uint8),
        scales=rng.uniform(0.001, 0.02, (num_groups, num_outputs)).astype(stored).astype(np.float32),
        bias=rng.standard_normal(num_outputs, dtype=np.float32) if rng.random() < 0.5 else None,
    )


def emulate_w4a8(x: Float32, weight: Int4Weight) -> Float32:
    """The scheme in numpy: exact integers within a group, then two fused multiply-adds, groups in order."""
    size = activation_group_size(len(weight.codes) // len(weight.scales))
    repeats = len(weight.codes) // len(weight.scales) // size
    zeros, scales = np.repeat(weight.zeros, repeats, axis=0), np.repeat(weight.scales, repeats, axis=0)
    y = np.zeros((len(x), weight.codes.shape[1]), np.float32)
    for group in range(len(scales)):
        part = x[:, group * size : (group + 1) * size]
        largest = np.abs(part).max(axis=1, keepdims=True)
        is_zero = largest < 2.0**-100
        inverse = np.float32(127) / np.where(is_zero, np.float32(1), largest)
        codes = np.where(is_zero, 0, np.rint(part * inverse)).astype(np.int64)
        activation_scale = np.where(is_zero, np.float32(0), largest / np.float32(127))
        activation_offset = -activation_scale * codes.sum(axis=1, keepdims=True).astype(np.float32)
        sums = codes @ weight.codes[group * size : (group + 1) * size].astype(np.int64)
        y = fused_multiply_add(activation_scale, scales[group] * sums.astype(np.float32), y)
        y = fused_multiply_add(activation_offset, scales[group] * zeros[group].astype(np.float32), y)
    return y if weight.bias is None else y + weight.bias


def fused_multiply_add(a: Float32, b: Float32, c: Float32) -> Float32:
    """a * b + c, rounded once: the product of two float32 is exact in a long double, and the sum nearly."""
    assert np.finfo(np.longdouble).nmant >= 63, "long double is no wider than double on this machine"
    total: Float32 = (a.astype(np.longdouble) * b + c).astype(np.float32)
    return total


def assert_same_bits(results: list[Float32]) -> None:
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


@settings(max_examples=60, deadline=None)
@given(
    seeds, st.integers(1, 40) | st.sampled_from([64, 96, 128, 192, 256]), st.integers(1, 4), widths, st.integers(1, 20)
)
def test_w4a8_is_its_definition_bit_for_bit(
    seed: int, group_size: int, num_groups: int, num_outputs: int, num_tokens: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = random_int4(rng, group_size, num_groups, num_outputs)
    x = rng.standard_normal((num_tokens, group_size * num_groups), dtype=np.float32)
    x[rng.integers(num_tokens), :group_size] = 0
    x *= np.float32(10.0) ** rng.integers(-30, 30, (num_tokens, 1)).astype(np.float32)
    assert_same_bits([emulate_w4a8(x, weight)] + [ops.linear(x, ops.pack_int4(weight)) for ops in VARIANTS])


def test_w4a8_holds_at_the_extremes_of_its_integers() -> None:
    weight = Int4Weight(np.full((256, 16), 15, np.uint8), np.zeros((2, 16), np.uint8), np.ones((2, 16), np.float32))
    for x in (np.full((7, 256), 3, np.float32), np.full((7, 256), -3, np.float32)):
        assert_same_bits([emulate_w4a8(x, weight)] + [ops.linear(x, ops.pack_int4(weight)) for ops in VARIANTS])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("lane", [0, 2], ids=["first pairs", "second pairs"])
@pytest.mark.parametrize("excess", [-1, 0, 1, 2])
def test_w4a8_sums_that_just_fit_16_bits_and_those_that_just_do_not(excess: int, lane: int, sign: int) -> None:
    """The most that a lane of w4a8_avx2.c can hold is 15 * 2184 = 32760; one more activation's worth leaves 16 bits."""
    codes = np.zeros((7, 128), np.float32)
    places = np.flatnonzero(np.arange(128) % 4 // 2 == lane // 2)
    codes[:, places[:17]] = 127
    codes[:, places[17]] = 2184 - 17 * 127 + excess
    weight = Int4Weight(np.full((128, 16), 15, np.uint8), np.zeros((1, 16), np.uint8), np.ones((1, 16), np.float32))
    x = codes * sign
    results = [ops.linear(x, ops.pack_int4(weight)) for ops in VARIANTS]
    assert_same_bits([emulate_w4a8(x, weight), *results])
    np.testing.assert_array_equal(results[0], sign * 15 * (2184 + excess))


def test_w4a8_error_on_gaussian_activations_is_below_one_percent() -> None:
    rng = np.random.default_rng(0)
    weight = random_int4(rng, 128, 8, 512)
    x = rng.standard_normal((64, 1024), dtype=np.float32)
    exact = REFERENCE.linear(x, REFERENCE.pack_int4(weight))
    error = np.linalg.norm(VARIANTS[3].linear(x, VARIANTS[3].pack_int4(weight)) - exact) / np.linalg.norm(exact)
    assert error < 0.01


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 90), widths, st.integers(1, 20), st.sampled_from([np.float16, np.float32]))
def test_dense_linear_has_the_same_bits_everywhere_and_is_near_the_reference(
    seed: int, num_inputs: int, num_outputs: int, num_tokens: int, dtype: type[np.floating]
) -> None:
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(num_outputs, dtype=np.float32) if rng.random() < 0.5 else None
    weight = DenseWeight(rng.standard_normal((num_outputs, num_inputs)).astype(dtype), bias)
    x = rng.standard_normal((num_tokens, num_inputs), dtype=np.float32)
    results = [ops.linear(x, ops.pack_dense(weight)) for ops in VARIANTS]
    assert_same_bits(results)
    np.testing.assert_allclose(results[0], REFERENCE.linear(x, REFERENCE.pack_dense(weight)), atol=1e-4)


@pytest.mark.parametrize("kind", ["int4", "dense"])
@pytest.mark.parametrize("ops", VARIANTS[1:4], ids=lambda ops: f"{ops.isa}-{ops.num_threads}")
def test_a_row_does_not_depend_on_its_batch(kind: str, ops: CpuOps) -> None:
    rng = np.random.default_rng(1)
    if kind == "int4":
        weight = ops.pack_int4(random_int4(rng, 128, 3, 400))
    else:
        weight = ops.pack_dense(DenseWeight(rng.standard_normal((400, 384)).astype(np.float16)))
    num_tokens = 787 if ops.isa != "portable" else 37  # more than the tokens that the W4A8 driver does at a time
    x = rng.standard_normal((num_tokens, 384), dtype=np.float32)
    whole = ops.linear(x, weight)
    cuts = [0, 1, 2, 5, 9, 14, 20, 27, num_tokens]
    pieces = [ops.linear(x[begin:end], weight) for begin, end in pairwise(cuts)]
    assert_same_bits([whole, np.concatenate(pieces)])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_row_with_nan_or_infinity_never_becomes_finite(poison: float) -> None:
    rng = np.random.default_rng(2)
    int4 = random_int4(rng, 32, 4, 40)
    dense = DenseWeight(rng.standard_normal((40, 128), dtype=np.float32))
    x = rng.standard_normal((8, 128), dtype=np.float32)
    clean = x.copy()
    x[3, 77] = poison
    for ops in VARIANTS:
        for weight in (ops.pack_int4(int4), ops.pack_dense(dense)):
            y = ops.linear(x, weight)
            assert not np.isfinite(y[3]).any()
            others = np.arange(8) != 3
            assert_same_bits([y[others], ops.linear(clean, weight)[others]])
        assert np.isnan(ops.rms_norm(x, np.ones(128, np.float32), 1e-5)[3]).any()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 70), st.integers(1, 30))
def test_row_operations_have_the_same_bits_everywhere_and_are_near_the_reference(
    seed: int, width: int, num_tokens: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((num_tokens, 2 * width)) * 20).astype(np.float32)
    weight = rng.standard_normal(2 * width, dtype=np.float32)
    for run in (lambda ops: ops.rms_norm(x, weight, 1e-5), lambda ops: ops.silu_mul(x), lambda ops: sum_of(ops, x)):
        results = [run(ops) for ops in VARIANTS]
        assert_same_bits(results)
        np.testing.assert_allclose(results[0], run(REFERENCE), rtol=2e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([8, 32, 40, 64, 128]), st.integers(1, 3), widths, st.integers(1, 40), st.booleans())
def test_fused_operations_have_the_bits_of_their_parts(
    seed: int, group_size: int, num_groups: int, num_outputs: int, num_tokens: int, is_int4: bool
) -> None:
    rng = np.random.default_rng(seed)
    width = group_size * num_groups
    int4 = random_int4(rng, group_size, num_groups, num_outputs)
    dense = DenseWeight(rng.standard_normal((num_outputs, width), dtype=np.float32), int4.bias)
    x, norm = rng.standard_normal((num_tokens, width), dtype=np.float32), rng.standard_normal(width, dtype=np.float32)
    gate_up = rng.standard_normal((num_tokens, 2 * width), dtype=np.float32)
    total = rng.standard_normal((num_tokens, num_outputs), dtype=np.float32)
    for ops in VARIANTS:
        weight = ops.pack_int4(int4) if is_int4 else ops.pack_dense(dense)
        assert_same_bits([ops.norm_linear(x, norm, 1e-5, weight), ops.linear(ops.rms_norm(x, norm, 1e-5), weight)])
        plain, gated = total.copy(), total.copy()
        ops.add_linear_(plain, x, weight)
        assert_same_bits([plain, total + ops.linear(x, weight)])
        ops.add_gated_linear_(gated, gate_up, weight)
        assert_same_bits([gated, total + ops.linear(ops.silu_mul(gate_up), weight)])


def sum_of(ops: CpuOps | ReferenceOps, x: Float32) -> Float32:
    total = x.copy()
    ops.add_(total, x[::-1].copy())
    return total


def test_silu_reaches_its_limits_without_nan() -> None:
    gate = np.array([-1e30, -200, -88.5, -87.5, -1e-30, 0, 1e-30, 87.5, 200, 1e30], np.float32)
    x = np.concatenate([gate, np.ones_like(gate)])[None]
    results = [ops.silu_mul(x) for ops in VARIANTS]
    assert_same_bits(results)
    np.testing.assert_allclose(results[0], REFERENCE.silu_mul(x), rtol=1e-6, atol=1e-35)


@pytest.mark.parametrize("ops", VARIANTS[1:4], ids=lambda ops: f"{ops.isa}-{ops.num_threads}")
def test_every_half_reads_as_numpy_reads_it(ops: CpuOps) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    rows = ops.embed(ops.pack_dense(DenseWeight(halves)), np.arange(256, dtype=np.int32))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(rows, halves.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("token_id", [-1, 5, 2**31 - 1])
def test_token_outside_the_table_is_an_error(dtype: type, token_id: int) -> None:
    for ops in VARIANTS:
        table = ops.pack_dense(DenseWeight(np.zeros((5, 3), dtype)))
        with pytest.raises(IndexError):
            ops.embed(table, np.array([0, token_id], np.int32))


def test_wrong_shapes_dtypes_and_layouts_are_refused_before_c_sees_them() -> None:
    ops = VARIANTS[3]
    weight = ops.pack_dense(DenseWeight(np.zeros((5, 8), np.float32)))
    int4 = ops.pack_int4(random_int4(np.random.default_rng(0), 8, 1, 5))
    x = np.zeros((4, 8), np.float32)
    bad: list[Callable[[], object]] = [
        lambda: ops.linear(x[:, :7], weight),
        lambda: ops.linear(x.astype(np.float64), weight),
        lambda: ops.linear(np.zeros((8, 4), np.float32).T, weight),
        lambda: ops.rms_norm(x, np.ones(7, np.float32), 1e-5),
        lambda: ops.add_(x, np.zeros((4, 7), np.float32)),
        lambda: ops.silu_mul(np.zeros((4, 7), np.float32)),
        lambda: ops.norm_linear(x, np.ones(7, np.float32), 1e-5, int4),
        lambda: ops.add_linear_(np.zeros((4, 6), np.float32), x, int4),
        lambda: ops.add_gated_linear_(np.zeros((4, 5), np.float32), x, int4),
        lambda: ops.embed(weight, np.zeros(3, np.int64)),
    ]
    for call in bad:
        with pytest.raises(AssertionError):
            call()


def test_no_rows_give_no_rows() -> None:
    ops = VARIANTS[3]
    weight = ops.pack_int4(random_int4(np.random.default_rng(3), 8, 2, 5))
    assert ops.linear(np.zeros((0, 16), np.float32), weight).shape == (0, 5)


def test_read_only_weights_are_used_in_place() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    table.flags.writeable = False
    packed = VARIANTS[3].pack_dense(DenseWeight(table))
    assert np.shares_memory(packed.arrays["weight"], table)
    np.testing.assert_array_equal(VARIANTS[3].embed(packed, np.array([2], np.int32)), table[2:])


def test_many_small_operations_from_several_threads_do_not_deadlock() -> None:
    ops = CpuOps(3)
    rng = np.random.default_rng(4)
    weight = ops.pack_int4(random_int4(rng, 128, 2, 1024))
    x = rng.standard_normal((24, 256), dtype=np.float32)
    expected = ops.linear(x, weight)
    failures: list[int] = []

    def work(thread: int) -> None:
        if not all(np.array_equal(ops.linear(x, weight), expected) for _ in range(300)):
            failures.append(thread)

    threads = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads cannot be counted on this system")
def test_threads_end_with_their_operations() -> None:
    def count_threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    before = count_threads()
    for _ in range(20):
        CpuOps(4)
    deadline = time.monotonic() + 10  # the system may list a thread for a moment after it was joined
    while count_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_threads() <= before


def test_group_size_divides_the_weights_and_is_at_most_128() -> None:
    for size in range(1, 600):
        found = activation_group_size(size)
        assert size % found == 0
        assert found <= 128
        assert not any(size % larger == 0 for larger in range(found + 1, min(size, 128) + 1))


@pytest.mark.skipif(not CPUINFO.exists(), reason="this system does not list its processor's features")
def test_the_best_instruction_set_is_chosen() -> None:
    flags = set(CPUINFO.read_text(encoding="utf-8").split())
    names = {"avx512_vnni": "avx512", "avx_vnni": "avxvnni", "avx2": "avx2", "asimddp": "neon"}  # the kernel's -> ours
    assert CpuOps(1).isa == next((isa for flag, isa in names.items() if flag in flags), "portable")
