"""The operations of a Llama forward pass, and the choice of a backend for them.

Knows: which backends there are and which one this machine can run.
Never knows: models, requests, text.
"""

import warnings

from guardhouse.errors import BackendError
from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.native import native_library_path
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Ops

__all__ = ["load_ops", "native_library_path"]


def load_ops(device: str, num_threads: int | None = None) -> Ops:
    """The backend called `device`: `cpu`, `reference`, or `auto` (cpu if it was compiled, else reference, loudly).

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
        raise BackendError("cuda is not in this version; use cpu")
    raise BackendError(f"unknown device: {device}")


def _load_fastest(num_threads: int | None) -> Ops:
    try:
        return CpuOps(num_threads)
    except BackendError as error:
        message = f"{error}. Falling back to numpy, which is many times slower"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return ReferenceOps()
