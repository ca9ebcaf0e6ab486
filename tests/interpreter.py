"""Triton's interpreter, made to round a product's sums by their values alone.

Its products are numpy's float32 ones, whose last bit depends on a row's place in the tile; a tensor core's does not. Summed
in float64 and rounded once, a row's bits are its own here too, so that tests may ask for equal bits.
"""

from typing import Any

import numpy as np
import pytest


def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the interpreter runs. On a device there is nothing to change."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is not installed")

    def create_dot(self: Any, a: Any, b: Any, acc: Any, precision: Any, max_num_imprecise_acc: Any) -> Any:
        is_float = acc.data.dtype == np.float32
        wide = np.float64 if is_float else np.int64
        total = np.matmul(a.data.astype(wide), b.data.astype(wide)) + acc.data
        return interpreter.TensorHandle(total.astype(acc.data.dtype), acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
