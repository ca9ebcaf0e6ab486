"""A real AWQ layer on its own real activations."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.native import native_library_path
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Int4Weight

pytestmark = pytest.mark.skipif(native_library_path() is None, reason="the native kernels were not compiled")

ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # AWQ: output 8 j + i is nibble ORDER[i] of word j


def unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    nibbles = words[:, :, None].view(np.uint32) >> np.array([4 * nibble for nibble in ORDER], np.uint32) & 15
    return nibbles.reshape(len(words), -1).astype(np.uint8)


def test_w4a8_is_within_one_percent_of_float32_on_the_same_weights(shared_data: Path) -> None:
    layer = np.load(shared_data / "awq_layer" / "awq_layer.npz")
    weight = Int4Weight(unpack(layer["qweight"]), unpack(layer["qzeros"]), layer["scales"], layer["bias"])
    x = np.ascontiguousarray(layer["act"], np.float32)
    centred = weight.codes.astype(np.float64) - np.repeat(weight.zeros, 128, axis=0)
    exact = x @ (centred * np.repeat(weight.scales, 128, axis=0)) + layer["bias"]

    reference, cpu = ReferenceOps(), CpuOps(2)
    error = np.linalg.norm(cpu.linear(x, cpu.pack_int4(weight)) - exact) / np.linalg.norm(exact)
    assert error < 0.01
    assert np.linalg.norm(reference.linear(x, reference.pack_int4(weight)) - exact) / np.linalg.norm(exact) < 1e-6
