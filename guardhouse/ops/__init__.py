"""The operations of a Llama forward pass, and the choice of a backend for them.

Knows: which backends there are and which one this machine can run.
Never knows: models, requests, text.
"""

import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

from guardhouse.errors import BackendError
from guardhouse.ops.cpu import CpuOps, best_isa
from guardhouse.ops.native import native_library_path
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Ops

COMPILERS = ("cc", "gcc", "clang")
NVIDIA_DEVICE = "/dev/nvidia0"  # looked for before torch is imported, which takes seconds

__all__ = ["best_isa", "describe_cuda", "load_ops", "native_library_path"]


def load_ops(device: str, num_threads: int | None = None) -> Ops:
    """The backend called `device`: `cpu`, `reference`, `cuda`, or `auto`.

    `auto` takes cuda where there is an NVIDIA device and the [cuda] extra, else cpu if it was compiled, else reference,
    loudly.

    `num_threads` None means one per processor that this process may use.

    >>> load_ops("reference").name
    'reference'
    """
    if device == "reference":
        return ReferenceOps()
    if device == "cpu":
        return CpuOps(num_threads)
    if device == "auto":
        return _load_fastest(num_threads)
    if device == "cuda":
        return _load_cuda()
    raise BackendError(f"unknown device: {device}")


def describe_cuda() -> str:
    """The GPU, its memory, torch's and Triton's versions. Raises BackendError, saying what is missing: what to do."""
    _require_cuda_extra()
    from guardhouse.ops.cuda import describe_device  # noqa: PLC0415  # as below

    return describe_device()


def _load_cuda() -> Ops:
    _require_cuda_extra()
    from guardhouse.ops.cuda import CudaOps  # noqa: PLC0415  # torch takes seconds to import, and is an extra

    return CudaOps()


def _require_cuda_extra() -> None:
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        raise BackendError(f"device cuda needs {' and '.join(missing)}: pip install 'guardhouse[cuda]'")
    if not any(map(shutil.which, COMPILERS)):
        raise BackendError("device cuda needs a C compiler, by which Triton starts kernels: install gcc or clang")


def _load_fastest(num_threads: int | None) -> Ops:
    if Path(NVIDIA_DEVICE).exists() and find_spec("torch") is not None and find_spec("triton") is not None:
        try:
            return _load_cuda()
        except BackendError as error:
            warnings.warn(f"{error}. Falling back to the processor", RuntimeWarning, stacklevel=3)
    try:
        return CpuOps(num_threads)
    except BackendError as error:
        message = f"{error}. Falling back to numpy, which is many times slower"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return ReferenceOps()
