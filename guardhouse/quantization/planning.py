"""Which of the searched scales and clips a layer really gets: those that bring its own output nearer to the dense layer's.

Knows: a layer before and after, a few calibration texts to run it on.
Never knows: how candidates are searched, packing, files.

A search sees one linear at a time. Two errors that are small alone can point the same way and add up: clipping gate, up and
down shrinks all three. So every candidate is tried on the whole layer, rounded as it then would be, and kept only if the
output improves. The first plan is plain rounding; so on these texts no layer ends up worse than that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from guardhouse.model.llama import Llama
from guardhouse.ops.table import Float32
from guardhouse.quantization.activations import CalibrationGroup, InputStatistics, run_segments
from guardhouse.quantization.layers import INPUT_OF, Parts, Plan, build_layer, fold_scales, owners, rounded_layer
from guardhouse.quantization.search import Searcher
from guardhouse.quantization.workers import Workers

NUM_JUDGED_TEXTS = 16  # per group of calibration texts
# q and k are never clipped: their products meet in a softmax, where a lost outlier costs more than its own error.
CLIPPED_TOGETHER = (("v",), ("o",), ("gate", "up"), ("down",))


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The plan of one layer and its relative output error, beside that of plain rounding."""

    plan: Plan
    error: float
    plain_error: float


class LayerJudge:
    """Runs rounded versions of one layer over a few texts."""

    def __init__(
        self, model: Llama, groups: Sequence[CalibrationGroup], before: Float32, after: Float32, workers: Workers
    ) -> None:
        self.config = model.config
        self._model = model
        self._groups = groups
        self._before = before  # what the layer reads, [T, hidden]
        self._after = after  # what the dense layer makes of it
        self._workers = workers
        self._sizes = np.square(after).mean(axis=1, dtype=np.float64) + 1e-12  # [T]

    def error(self, parts: Parts) -> float:
        """Mean over tokens of the squared error, each relative to the token's own size, as the next norm sees it."""
        x = self._before.copy()
        for _ in run_segments(self._model, build_layer(parts, self._model.ops), x, self._groups, self._workers):
            pass
        return float((np.square(x - self._after).mean(axis=1, dtype=np.float64) / self._sizes).mean())


def plan_layer(
    parts: Parts, statistics: Mapping[str, InputStatistics], searcher: Searcher, judge: LayerJudge
) -> LayerPlan:
    """Search every input's scales and every range; keep what helps."""
    config, group_size = judge.config, searcher.group_size

    def error_of(plan: Plan) -> float:
        return judge.error(rounded_layer(parts, plan, config, group_size))

    plan = Plan()
    error = plain_error = error_of(plan)
    for source, owner in owners(config).items():
        found = statistics[source]
        readers = [parts.weights[name] for name in INPUT_OF if INPUT_OF[name] == source]
        trial = plan.with_scales(source, searcher.scales(readers, found.mean_abs, found.samples, owner).scales)
        if (trial_error := error_of(trial)) < error:
            plan, error = trial, trial_error
    folded = fold_scales(parts, plan.scales, config)
    for names in CLIPPED_TOGETHER:
        trial = plan.with_shrink({name: _shrink(name, folded, plan, statistics, searcher) for name in names})
        if (trial_error := error_of(trial)) < error:
            plan, error = trial, trial_error
    return LayerPlan(plan, error, plain_error)


def _shrink(
    name: str, folded: Parts, plan: Plan, statistics: Mapping[str, InputStatistics], searcher: Searcher
) -> Float32:
    source = INPUT_OF[name]
    moments = statistics[source].moments  # [groups, group_size, group_size]
    if source in plan.scales:
        inverse = np.float32(1) / plan.scales[source].reshape(len(moments), -1)
        moments = moments * inverse[:, :, None] * inverse[:, None, :]
    return searcher.shrink(folded.weights[name], moments)
