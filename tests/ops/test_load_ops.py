"""Which backend a device name gives."""

from pathlib import Path

import pytest

from guardhouse.errors import BackendError
from guardhouse.ops import NVIDIA_DEVICE, load_ops, native, native_library_path
from guardhouse.ops.cpu import CpuOps


def test_reference_is_always_there() -> None:
    assert load_ops("reference", None).name == "reference"


@pytest.mark.skipif(Path(NVIDIA_DEVICE).exists(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(BackendError):
        load_ops("cuda", None)


@pytest.mark.parametrize("device", ["tpu", ""])
def test_a_device_that_cannot_be_used_is_an_error(device: str) -> None:
    with pytest.raises(BackendError):
        load_ops(device, None)


@pytest.mark.skipif(native_library_path() is None, reason="the native kernels were not compiled")
def test_auto_is_the_processor_where_kernels_were_compiled() -> None:
    ops = load_ops("auto", 2)
    assert isinstance(ops, CpuOps)
    assert ops.num_threads == 2


@pytest.mark.parametrize("is_broken", [False, True], ids=["absent", "broken"])
def test_without_kernels_cpu_is_an_error_and_auto_falls_back_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_broken: bool
) -> None:
    path = tmp_path / "libguardhouse_native.so"
    path.write_bytes(b"not a library")
    monkeypatch.setattr(native, "native_library_path", lambda: path if is_broken else None)
    with pytest.raises(BackendError):
        load_ops("cpu", None)
    with pytest.warns(RuntimeWarning, match="numpy"):
        assert load_ops("auto", None).name == "reference"


@pytest.mark.skipif(native_library_path() is None, reason="the native kernels were not compiled")
def test_no_threads_are_refused() -> None:
    with pytest.raises(BackendError):
        load_ops("cpu", 0)
