"""The shape of packed int4 weights, for the C kernels in panels of 16 outputs (native/pack.c draws their bytes).

Knows: how outputs, groups and quads of inputs are counted and padded.
Never knows: the kernels, addresses.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.ops.table import Float32

PANEL = 16  # outputs that a panel holds
QUAD = 4  # input rows that one 32-bit word of activations holds
MAX_GROUP = 128  # inputs that share an activation scale, at most: keeps a group's sums below 2^15 * 8 and error small


def activation_group_size(group_size: int) -> int:
    """The weight's own group size, or the largest divisor of it that is small enough.

    >>> activation_group_size(128), activation_group_size(192), activation_group_size(6)
    (128, 96, 6)
    """
    return next(size for size in range(min(group_size, MAX_GROUP), 0, -1) if group_size % size == 0)


def num_panels(num_outputs: int) -> int:
    return -(-num_outputs // PANEL)


def panel_shape(num_inputs: int, num_outputs: int, group_size: int) -> tuple[int, int, int, int]:
    """[panels, groups, quads, bytes]; a byte holds two codes."""
    return num_panels(num_outputs), num_inputs // group_size, -(-group_size // QUAD), PANEL * QUAD // 2


def halved_if_exact(scales: Float32) -> NDArray[Any]:
    """AWQ's scales are float16 in the file: half the memory, half the bytes to read. Others stay float32."""
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    return halves if (halves.astype(np.float32) == scales).all() else scales.astype(np.float32)


def split_groups(values: NDArray[Any], repeats: int) -> NDArray[Any]:
    """[groups, out] -> [panels, groups * repeats, 16]: each group repeated for its parts, outputs padded with zeros."""
    num_groups, num_outputs = values.shape
    padded = np.zeros((num_groups, num_panels(num_outputs) * PANEL), values.dtype)
    padded[:, :num_outputs] = values
    by_panel = padded.reshape(num_groups, -1, PANEL).swapaxes(0, 1)
    return np.ascontiguousarray(np.repeat(by_panel, repeats, axis=1))
