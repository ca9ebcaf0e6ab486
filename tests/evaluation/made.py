"""Scores without a model, for tests of what is done with them.

Knows: how to make a scored dataset from labels and scores.
Never knows: what is tested.
"""

from collections.abc import Sequence

import numpy as np

from guardhouse.evaluation.examples import Dataset, Example
from guardhouse.evaluation.report import ModelReport, Report, build_report
from guardhouse.evaluation.scoring import Scored
from guardhouse.guard.conversation import Conversation, Turn

MODEL = ModelReport("model", "default", "cpu", 1000, 2000)
SECRET = "the text that somebody wrote"


def made_scores(
    scores: Sequence[float],
    labels: Sequence[bool],
    *,
    name: str = "made",
    codes: Sequence[str] = (),
    groups: Sequence[str] = (),
    digest: str = "d",
    unjudged: dict[str, int] | None = None,
) -> Scored:
    """One row per score; `codes[i]` is an unsafe row's category ("?": open)."""
    rows = range(len(scores))
    examples = [
        Example(
            where=f"made:{index + 1}",
            line=index + 1,
            conversation=Conversation((Turn("user", SECRET),)),
            is_unsafe=labels[index],
            codes=frozenset(codes[index].split()) if codes else frozenset(),
            unlabelled=None if codes and codes[index] == "?" else frozenset(),
            group=groups[index] if groups else "",
        )
        for index in rows
    ]
    dataset = Dataset(name, "table", digest, examples, len(scores), {})
    array = np.array(scores, np.float64)
    categories = {"O1": array * 0.75, "O2": array * 0.25}
    return Scored(
        dataset, examples, array, np.array(labels, np.bool_), categories, unjudged or {}, 10 * len(scores), 2.0
    )


def made_report(*results: Scored, threshold: float = 0.5, num_resamples: int = 200) -> Report:
    return build_report(results, MODEL, threshold, num_resamples)


def separable(num_rows: int = 300, overlap: float = 0.25, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Scores around 0.3 for safe rows and 0.7 for unsafe ones, a third of the rows."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_rows) % 3 == 0
    scores = np.clip(generator.normal(np.where(labels, 0.7, 0.3), overlap), 0, 1)
    return scores.tolist(), labels.tolist()
