"""What model/awq.py promises, against a dequantiser written here from the format's description alone."""

from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from guardhouse.errors import CheckpointError
from guardhouse.model.awq import (
    concatenate_outputs,
    dequantize,
    pack_awq,
    pack_columns,
    quantize_rtn,
    unpack_awq,
    unpack_columns,
)

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of word c holds output column 8 c + ORDER[i]


def nibble_by_nibble(packed: NDArray[np.int32]) -> NDArray[np.int64]:
    """Slow and literal: one Python integer at a time."""
    columns = np.zeros((packed.shape[0], packed.shape[1] * 8), np.int64)
    for (row, word), value in np.ndenumerate(packed):
        for nibble in range(8):
            columns[row, 8 * word + ORDER[nibble]] = (int(value) >> (4 * nibble)) & 15
    return columns


def small_tensors(num_inputs: int = 32, num_outputs: int = 16, num_groups: int = 2) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    words = generator.integers(-(2**31), 2**31, (num_inputs + num_groups, num_outputs // 8), dtype=np.int32)
    return {
        "qweight": words[:num_inputs],
        "qzeros": words[num_inputs:],
        "scales": generator.random((num_groups, num_outputs)).astype(np.float16),
    }


def test_a_real_layer_is_read_as_the_format_says(shared_data: Path) -> None:
    layer = np.load(shared_data / "awq_layer" / "awq_layer.npz")
    codes, zeros = nibble_by_nibble(layer["qweight"]), nibble_by_nibble(layer["qzeros"])
    expected = (codes - np.repeat(zeros, 128, axis=0)) * np.repeat(layer["scales"], 128, axis=0)  # [in, out]

    weight = unpack_awq(layer["qweight"], layer["qzeros"], layer["scales"], layer["bias"])

    assert np.array_equal(weight.codes, codes)
    assert np.array_equal(weight.zeros, zeros)
    assert weight.bias is not None
    assert np.array_equal(weight.bias, layer["bias"])
    assert np.array_equal(dequantize(weight).weight, expected.T.astype(np.float32))


def test_a_real_layer_survives_being_packed_again(shared_data: Path) -> None:
    layer = np.load(shared_data / "awq_layer" / "awq_layer.npz")
    packed = pack_awq(unpack_awq(layer["qweight"], layer["qzeros"], layer["scales"]))
    assert np.array_equal(packed["qweight"], layer["qweight"])
    assert np.array_equal(packed["qzeros"], layer["qzeros"])


@given(
    arrays.arrays(np.int32, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.integers(-(2**31), 2**31 - 1))
)
def test_words_survive_unpacking_and_packing(words: NDArray[np.int32]) -> None:
    columns = unpack_columns(words)
    assert np.array_equal(columns, nibble_by_nibble(words))
    assert np.array_equal(pack_columns(columns), words)


@settings(max_examples=50)
@given(
    arrays.arrays(np.float32, (8, 64), elements=st.floats(-4, 4, width=32)),
    st.sampled_from([8, 16, 32, 64]),
)
def test_rounding_moves_no_weight_by_more_than_one_step(dense: NDArray[np.float32], group_size: int) -> None:
    weight = quantize_rtn(dense, group_size)
    step = np.repeat(weight.scales, group_size, axis=0).T  # [out, in]
    # half a step from rounding the weight, half a step from rounding the zero, and float16's rounding of the scale
    assert np.all(np.abs(dequantize(weight).weight - dense) <= step * (1 + 15 * 2**-10) + 1e-6)


@given(st.integers(0, 2**32 - 1))
def test_quantised_weights_survive_being_packed(seed: int) -> None:
    dense = np.random.default_rng(seed).standard_normal((16, 32)).astype(np.float32)
    weight = quantize_rtn(dense, group_size=16)
    again = unpack_awq(**pack_awq(weight))
    assert np.array_equal(again.codes, weight.codes)
    assert np.array_equal(again.zeros, weight.zeros)
    assert np.array_equal(again.scales, weight.scales)


def test_fused_linears_give_each_linears_outputs_side_by_side() -> None:
    generator = np.random.default_rng(1)
    dense = [generator.standard_normal((size, 32)).astype(np.float32) for size in (8, 16, 24)]
    parts = [quantize_rtn(weight, group_size=16) for weight in dense]
    fused = dequantize(concatenate_outputs(parts)).weight
    assert np.array_equal(fused, np.concatenate([dequantize(part).weight for part in parts]))


def test_without_zeros_the_middle_code_is_zero() -> None:
    tensors = small_tensors()
    weight = unpack_awq(tensors["qweight"], None, tensors["scales"])
    assert np.array_equal(weight.zeros, np.full((2, 16), 8, np.uint8))


@pytest.mark.parametrize(
    ("name", "broken", "complaint"),
    [
        ("qweight", np.zeros((32, 2), np.int64), "qweight: expected int32"),
        ("qzeros", np.zeros((2, 3), np.int32), r"qzeros: expected \(2, 2\)"),
        ("scales", np.zeros((2, 8), np.float16), r"scales: expected \[groups, 16\]"),
        ("scales", np.zeros((3, 16), np.float16), "3 groups do not divide 32 inputs"),
        ("bias", np.zeros(8, np.float16), r"bias: expected \(16,\)"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(name: str, broken: NDArray[Any], complaint: str) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        unpack_awq(**(small_tensors() | {name: broken}))


@pytest.mark.parametrize("group_size", [0, 5, -1])
def test_groups_that_do_not_divide_the_inputs_are_refused(group_size: int) -> None:
    with pytest.raises(CheckpointError, match="cannot be cut into groups"):
        quantize_rtn(np.zeros((8, 32), np.float32), group_size)
