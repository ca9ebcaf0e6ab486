"""A guard over a dataset: one score per row, or the reason why there is none.

Knows: how to submit many rows, that one row's failure is no reason to lose the others.
Never knows: metrics, files, terminals.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import GuardhouseError, InputError, VerdictError
from guardhouse.evaluation.examples import Dataset, Example
from guardhouse.evaluation.metrics import Float64
from guardhouse.guard.guard import Guard
from guardhouse.guard.many import submit_many
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict

MAX_PENDING = 64

Outcome = Verdict | GuardhouseError


@dataclass(frozen=True, slots=True)
class Scored:
    """The judged rows of a dataset, in order, and how many could not be judged."""

    dataset: Dataset
    examples: Sequence[Example]  # the judged ones
    scores: Float64  # [n], P(unsafe)
    is_unsafe: NDArray[np.bool_]  # [n]
    categories: Mapping[str, Float64]  # code -> [n]
    unjudged: Mapping[str, int]  # kind of error -> rows
    num_tokens: int  # of all prompts, the policy included
    seconds: float


def score(
    guard: Guard, dataset: Dataset, policy: Policy | None = None, progress: Callable[[int], None] | None = None
) -> Scored:
    """Judge every example. `progress` gets the number that is done."""
    started = time.perf_counter()

    def submit(example: Example) -> Future[Outcome]:
        return _caught(lambda: guard.submit(example.conversation, policy=policy))

    outcomes = submit_many(submit, dataset.examples, MAX_PENDING, progress)
    seconds = time.perf_counter() - started
    judged = [
        (example, outcome)
        for example, outcome in zip(dataset.examples, outcomes, strict=True)
        if isinstance(outcome, Verdict)
    ]
    verdicts = [verdict for _, verdict in judged]
    codes = list(verdicts[0].categories) if verdicts else []
    return Scored(
        dataset=dataset,
        examples=[example for example, _ in judged],
        scores=np.array([verdict.score for verdict in verdicts], np.float64),
        is_unsafe=np.array([example.is_unsafe for example, _ in judged], np.bool_),
        categories={code: np.array([verdict.categories[code] for verdict in verdicts]) for code in codes},
        unjudged=Counter(type(outcome).__name__ for outcome in outcomes if not isinstance(outcome, Verdict)),
        num_tokens=sum(verdict.num_prompt_tokens for verdict in verdicts),
        seconds=seconds,
    )


def _caught(submit: Callable[[], Future[Verdict]]) -> Future[Outcome]:
    """The verdict, or the error that this row alone is to blame for, as a value."""
    outer: Future[Outcome] = Future()
    try:
        inner = submit()
    except InputError as error:
        outer.set_result(error)
        return outer

    def settle(done: Future[Verdict]) -> None:
        try:
            try:
                outer.set_result(done.result())
            except (InputError, VerdictError) as error:
                outer.set_result(error)
            except BaseException as error:
                outer.set_exception(error)
        except InvalidStateError:
            pass  # cancelled meanwhile: nobody waits

    inner.add_done_callback(settle)
    outer.add_done_callback(lambda done: inner.cancel() if done.cancelled() else None)
    return outer
