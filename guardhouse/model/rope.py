"""The rotation's cosines and sines, for every position a model may be asked for.

Knows: rotary position embeddings, their linear and Llama 3 scalings.
Never knows: how they are applied (ops do), layers, files.
"""

import math

import numpy as np
from numpy.typing import NDArray

from guardhouse.model.llama_config import RopeScaling
from guardhouse.ops.table import Float32


def rope_tables(
    head_dim: int, theta: float, scaling: RopeScaling | None, max_positions: int
) -> tuple[Float32, Float32]:
    """cos and sin, [max_positions, head_dim / 2] each, computed in float64 and rounded once."""
    angles = np.outer(np.arange(max_positions, dtype=np.float64), inverse_frequencies(head_dim, theta, scaling))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> NDArray[np.float64]:
    """Radians per position of each pair of dimensions, [head_dim / 2]."""
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    assert scaling.kind == "llama3", scaling.kind
    return _llama3(frequencies, scaling)


def _llama3(frequencies: NDArray[np.float64], scaling: RopeScaling) -> NDArray[np.float64]:
    """Slow rotations are slowed by `factor`, fast ones are left alone, those between are blended.

    Turns that a pair makes within the length of pretraining:

        0 ──── all slowed ──── low_freq_factor ──── blended ──── high_freq_factor ──── untouched ──►
    """
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    untouched = np.clip(share, 0.0, 1.0)
    return frequencies * (untouched + (1 - untouched) / scaling.factor)
