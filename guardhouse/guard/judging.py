"""From engine results to one verdict: the requests behind a `Future[Verdict]`, window by window and code by code.

Knows: which ids to submit, what to do when each result arrives (on the engine's thread, so it must be quick).
Never knows: files, settings, HTTP.

    window 1 ─┐                                    ┌─ done
    window 2 ─┼─► all judged ─► highest score ─► flagged, all codes wanted? ─► one small request per further code ─► done
    window n ─┘
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from guardhouse.engine.request import Request, RequestResult
from guardhouse.guard.conversation import Role
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import (
    AnswerIds,
    Judgement,
    Verdict,
    Window,
    choose_next_code,
    deciding_window,
    find_next_code,
    judge,
)
from guardhouse.model.tokenizer import Tokenizer

T = TypeVar("T")
Submit = Callable[[Request], Future[RequestResult]]


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be judged: one conversation under one policy, in one or more windows."""

    policy: Policy
    role: Role
    threshold: float
    answers: AnswerIds
    prompts: Sequence[list[int]]  # ids up to the tail, one list per window
    spans: Sequence[tuple[int, int]]  # characters of the judged turn, one pair per window
    all_categories: bool
    deadline: float | None


class Judging:
    """One case on its way through the engine. Invariant: `future` is settled exactly once, or cancelled by its owner.

    Once it is done, nothing here holds the future that holds it: the logits go at once, without the garbage collector.
    """

    def __init__(self, case: Case, submit: Submit, tokenizer: Tokenizer) -> None:
        self.future: Future[Verdict] = Future()
        self._case = case
        self._submit = submit
        self._tokenizer = tokenizer
        self._pending: list[Future[RequestResult]] = []
        self._judgements: list[Judgement | None] = [None] * len(case.prompts)
        self._results: list[RequestResult | None] = [None] * len(case.prompts)
        self.future.add_done_callback(partial(cancel_all, self._pending))

    def start(self) -> Future[Verdict]:
        """Submit every window. Raises what the engine raises at once; then, or if it was cancelled, nothing stays queued."""
        forced = self._case.answers.forced
        try:
            for ids in self._case.prompts:
                rows = (len(ids) - 1, len(ids) + len(forced) - 1)
                self._pending.append(self._submit(self._request([*ids, *forced], rows)))
        except BaseException:
            cancel_all(self._pending)
            raise
        for index, pending in enumerate(tuple(self._pending)):
            pending.add_done_callback(self._then(partial(self._judged, index)))
        if self.future.cancelled():  # while it waited for a pin, or just now
            cancel_all(self._pending)
        return self.future

    def _request(self, ids: Sequence[int], rows: tuple[int, int], *, is_follow_up: bool = False) -> Request:
        token_ids = np.array(ids, dtype=np.int32)
        return Request(token_ids, logit_positions=rows, is_follow_up=is_follow_up, deadline=self._case.deadline)

    def _judged(self, index: int, result: RequestResult) -> None:
        self._results[index] = result
        self._judgements[index] = judge(result.logits, self._case.answers)
        judgements = [judgement for judgement in self._judgements if judgement is not None]
        if len(judgements) < len(self._judgements):
            return
        deciding = deciding_window(judgements)
        top = judgements[deciding]
        codes = (top.top_code,) if top.score >= self._case.threshold else ()
        if codes and self._case.all_categories:
            self._ask_for_more(deciding, codes)
        else:
            self._settle(deciding, codes)

    def _ask_for_more(self, deciding: int, codes: tuple[str, ...]) -> None:
        step = find_next_code(self._tokenizer, self._case.policy, codes)
        if step is None:
            self._settle(deciding, codes)
            return
        ids = [*self._case.prompts[deciding], *step.answer]
        rows = (len(ids) - 1, len(ids) + len(step.bridge) - 1)
        pending = self._submit(self._request([*ids, *step.bridge], rows, is_follow_up=True))
        self._pending.append(pending)

        def answered(result: RequestResult) -> None:
            code = choose_next_code(result.logits, step, self._tokenizer.eos_token_ids)
            if code is None:
                self._settle(deciding, codes)
            else:
                self._ask_for_more(deciding, (*codes, code))

        pending.add_done_callback(self._then(answered))

    def _settle(self, deciding: int, codes: tuple[str, ...]) -> None:
        case = self._case
        top, result = self._judgements[deciding], self._results[deciding]
        assert top is not None
        assert result is not None
        scores = [judgement.score for judgement in self._judgements if judgement is not None]
        verdict = Verdict(
            flagged=bool(codes),
            score=top.score,
            mass=top.mass,
            categories=top.categories,
            codes=tuple(code for code in case.policy.codes if code in codes),
            policy=case.policy.name,
            role=case.role,
            threshold=case.threshold,
            num_prompt_tokens=sum(len(ids) for ids in case.prompts),
            num_cached_tokens=sum(done.num_cached_tokens for done in self._results if done is not None),
            windows=tuple(Window(*span, score) for span, score in zip(case.spans, scores, strict=True)),
        )
        settle(self.future, verdict)

    def _then(self, step: Callable[[RequestResult], None]) -> Callable[[Future[RequestResult]], None]:
        """`step` as a callback; whatever it or its request raises is the case's outcome, never lost."""

        def run(done: "Future[RequestResult]") -> None:
            if self.future.done():
                return
            try:
                step(done.result())
            except BaseException as error:
                settle(self.future, error)
                cancel_all(self._pending)

        return run


def settle(future: Future[T], outcome: T | BaseException) -> None:
    """Give a future its outcome, unless its owner has cancelled it."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass  # cancelled meanwhile: nobody waits


def cancel_all(pending: list[Future[RequestResult]], _: object = None) -> None:
    """Cancel these and forget them, as nobody waits for them any more. `_`: so that it can be a future's callback."""
    with suppress(IndexError):  # another thread may take from the same list, or add to it
        while True:
            pending.pop().cancel()


def then(inner: Future[RequestResult], finish: Callable[[RequestResult], T]) -> Future[T]:
    """A future for what `finish` makes of the result; cancelling it cancels the request behind it."""
    outer: Future[T] = Future()

    def run(done: "Future[RequestResult]") -> None:
        try:
            outcome: T | BaseException = finish(done.result())
        except BaseException as error:  # whatever it is, it belongs to whoever waits, not to the engine's thread
            outcome = error
        settle(outer, outcome)

    outer.add_done_callback(partial(cancel_all, [inner]))
    inner.add_done_callback(run)
    return outer
