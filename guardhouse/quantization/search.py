"""AWQ's two searches: which inputs to magnify before rounding, and how far to narrow each group's range.

Knows: dense weights, statistics of what they read, the error of their outputs.
Never knows: layers, names, files.

Method: Lin et al., AWQ, arXiv 2306.00978. A weight's column j times s_j, and its input j divided by s_j, is the same linear;
rounded to four bits it is not, and errors shrink where large inputs get large s. The division costs nothing when it is
folded into whatever made the input. Candidates are s = |x|^r / |w|^(1 - r) for r on a grid, and s = 1, plain rounding, so
that the search is never worse than that on the calibration rows.

Everything runs over pieces of 64 outputs that fit a core's cache, side by side: numpy's loops and products leave the GIL.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from guardhouse.model.awq import encode_groups
from guardhouse.ops.table import Float32
from guardhouse.quantization.workers import Workers

ROWS_PER_PIECE = 64
MIN_SCALE = 1e-4
MAX_SHRINK = 0.5  # of a range
SHRINK_STEPS = 10

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ScaleChoice:
    """The winner of a scale search. Errors are sums of squared output differences over the sample rows."""

    scales: Float32  # [in]
    error: float
    plain_error: float  # of rounding without any scaling


class Searcher:
    """The searches, over one set of workers."""

    def __init__(self, workers: Workers, group_size: int, grid: int = 20) -> None:
        self._pool = workers.pool
        self.group_size = group_size
        self._grid = grid

    def scales(
        self, weights: Sequence[Float32], mean_abs: Float32, samples: Float32, owner: NDArray[np.intp]
    ) -> ScaleChoice:
        """The scales of the inputs that `weights` [out, in] share.

        `owner` [in]: inputs with the same owner must get the same scale, because one output of the previous operation
        makes them all (a value head that several query heads read).
        """
        candidates = self._candidates(weights, mean_abs, owner)
        pieces = [piece for weight in weights for piece in _pieces(weight)]
        errors = np.sum(self._map(lambda piece: self._errors(piece, candidates, samples), pieces), axis=0)
        best = int(np.argmin(errors))
        return ScaleChoice(candidates[best], float(errors[best]), float(errors[0]))

    def shrink(self, weight: Float32, moments: Float32) -> Float32:
        """Per output and group, the share of its range [out, groups] that loses least; see InputStatistics.moments."""
        return np.concatenate(self._map(lambda piece: self._best_shrink(piece, moments), list(_pieces(weight))))

    def _candidates(self, weights: Sequence[Float32], mean_abs: Float32, owner: NDArray[np.intp]) -> Sequence[Float32]:
        """No scaling at all, then the grid."""
        x = _mean_by_owner(mean_abs, owner) + 1e-8
        w = _mean_by_owner(self._mean_share(weights), owner) + 1e-8
        ratios = np.arange(self._grid) / self._grid
        found = [_normalised(x**ratio / w ** (1 - ratio))[owner] for ratio in ratios]
        return [np.ones_like(mean_abs), *found]

    def _mean_share(self, weights: Sequence[Float32]) -> Float32:
        """[in]: how large a column is within its groups, on average: |w| / the group's largest |w|."""
        total = np.zeros(weights[0].shape[1])
        for weight in weights:
            sizes = np.abs(weight).reshape(len(weight), -1, self.group_size)
            total += (sizes / (sizes.max(axis=2, keepdims=True) + 1e-8)).sum(axis=0).reshape(-1)
        return (total / sum(map(len, weights))).astype(np.float32)

    def _errors(self, piece: Float32, candidates: Sequence[Float32], samples: Float32) -> NDArray[np.float64]:
        errors = np.zeros(len(candidates))
        for index, scales in enumerate(candidates):
            difference = self._rounded(piece * scales, None) / scales - piece
            errors[index] = np.square(samples @ difference.T).sum(dtype=np.float64)
        return errors

    def _best_shrink(self, piece: Float32, moments: Float32) -> Float32:
        groups = piece.reshape(len(piece), -1, self.group_size)
        best = np.ones(groups.shape[:2], np.float32)
        least = np.full(groups.shape[:2], np.inf)
        for step in range(SHRINK_STEPS):
            share = np.float32(1 - MAX_SHRINK * step / SHRINK_STEPS)
            shrink = np.full(groups.shape[:2], share, np.float32)
            difference = (self._rounded(piece, shrink) - piece).reshape(groups.shape).transpose(1, 0, 2)
            errors = ((difference @ moments) * difference).sum(axis=2).T  # [out, groups]
            is_better = errors < least
            best[is_better], least[is_better] = share, errors[is_better]
        return best

    def _rounded(self, weight: Float32, shrink: Float32 | None) -> Float32:
        codes, zeros, scales = encode_groups(weight.reshape(len(weight), -1, self.group_size), shrink)
        codes -= zeros[:, :, None]
        codes *= scales[:, :, None]
        rounded: Float32 = codes.reshape(weight.shape)
        return rounded

    def _map(self, function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
        return list(self._pool.map(function, pieces))


def output_error(weight: Float32, rounded: NDArray[np.floating], samples: Float32) -> float:
    """Sum of squared output differences over the sample rows."""
    return float(np.square(samples @ (rounded - weight).T).sum(dtype=np.float64))


def _pieces(weight: Float32) -> Iterator[Float32]:
    for start in range(0, len(weight), ROWS_PER_PIECE):
        yield weight[start : start + ROWS_PER_PIECE]


def _mean_by_owner(values: Float32, owner: NDArray[np.intp]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.bincount(owner, weights=values) / np.bincount(owner)
    return means


def _normalised(scales: NDArray[np.float64]) -> Float32:
    """Around 1, geometrically, so that neither side of the product leaves float16's range."""
    scales = np.maximum(scales, MIN_SCALE)
    normalised: Float32 = (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)
    return normalised
