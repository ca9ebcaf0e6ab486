"""What ops/resident.py promises: a copy that no file stands behind, unless there is no room for it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from guardhouse.errors import BackendError
from guardhouse.ops import resident
from guardhouse.ops.resident import available_bytes, into_memory

pytestmark = pytest.mark.skipif(available_bytes() == 0, reason="this system does not say how much memory is left")


def map_numbers(path: Path) -> NDArray[np.float32]:
    np.save(path, np.arange(3000, dtype=np.float32).reshape(3, 1000))
    mapped: NDArray[np.float32] = np.load(path, mmap_mode="r").view(np.ndarray)
    return mapped


def test_a_mapped_array_outlives_its_file(tmp_path: Path) -> None:
    array = into_memory(map_numbers(tmp_path / "a.npy"))
    with (tmp_path / "a.npy").open("r+b") as file:
        file.write(bytes(2000))
    np.testing.assert_array_equal(array, np.arange(3000, dtype=np.float32).reshape(3, 1000))
    assert not array.flags.writeable
    assert array.ctypes.data % 64 == 0


def test_other_arrays_are_left_as_they_are(tmp_path: Path) -> None:
    own, part = np.zeros(7), map_numbers(tmp_path / "a.npy")[1:]
    assert into_memory(own) is own
    assert into_memory(part) is part


def test_an_array_stays_mapped_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = map_numbers(tmp_path / "a.npy")
    monkeypatch.setattr(resident, "RESERVED_BYTES", available_bytes())
    assert into_memory(mapped) is mapped


def test_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    mapped = map_numbers(tmp_path / "a.npy")
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(BackendError, match="shorter"):
        into_memory(mapped)
