"""Let the model write: one engine request, its text piece by piece.

Knows: how tokens become text, when a text ends.
Never knows: what the text says, policies, HTTP.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Required, TypedDict

import numpy as np

from guardhouse.engine.grammar import Grammar
from guardhouse.engine.request import Drawn, Request, RequestResult, SamplingParams
from guardhouse.guard.judging import Submit, then
from guardhouse.guard.streaming import StopFinder, TextStream
from guardhouse.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of a text, and the tokens that were drawn for it (log probabilities only if asked for)."""

    text: str  # may be "" on the last one, and where a character or a stop string is not complete yet
    drawn: tuple[Drawn, ...]


OnPiece = Callable[[Piece], None]


class GenerateOptions(TypedDict, total=False):
    """How to write; see Guard.generate."""

    sampling: Required[SamplingParams]
    raw: bool
    lead: str
    grammar: Grammar | None
    stop: Sequence[str]
    num_logprobs: int | None
    on_piece: OnPiece | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Generation:
    """Text that the model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0  # prompt tokens whose keys and values were in the cache
    drawn: tuple[Drawn, ...] = ()  # one per token, if log probabilities were asked for
    meets_grammar: bool = True  # False: cut before what it was held to was complete


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """What is to be written: after these ids, drawn like this."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams
    grammar: Grammar | None = None
    stop: Sequence[str] = ()  # the text ends before the first of these
    num_logprobs: int | None = None
    on_piece: OnPiece | None = None  # gets every piece, on the engine's thread
    deadline: float | None = None


def start_generation(task: GenerationTask, submit: Submit, tokenizer: Tokenizer) -> Future[Generation]:
    """Submit the task. Its text ends before the end-of-text token; cancelling the future frees the work."""
    writing = _Writing(task, tokenizer)
    end_ids = frozenset(tokenizer.eos_token_ids)
    request = Request(
        np.array(task.prompt_ids, dtype=np.int32),
        sampling=replace(task.sampling, stop_token_ids=task.sampling.stop_token_ids | end_ids),
        constraint=writing.constraint,
        num_logprobs=task.num_logprobs,
        on_token=writing.take,
        deadline=task.deadline,
    )
    return then(submit(request), writing.finish)


class _Writing:
    """One text as its tokens arrive. Invariant: the pieces shown, joined, are the text so far, before any stop string."""

    def __init__(self, task: GenerationTask, tokenizer: Tokenizer) -> None:
        self.constraint = task.grammar.constraint() if task.grammar else None
        self._task = task
        self._stream = TextStream(tokenizer)
        self._stops = StopFinder(task.stop)
        self._end_ids = frozenset(tokenizer.eos_token_ids)
        self._texts: list[str] = []
        self._drawn: list[Drawn] = []  # since the last piece

    def take(self, drawn: Drawn) -> bool:
        """True once a stop string has come."""
        self._drawn.append(drawn)
        if drawn.token_id not in self._end_ids:
            self._show(self._stops.feed(self._stream.push(drawn.token_id)))
        return self._stops.is_stopped

    def finish(self, result: RequestResult) -> Generation:
        rest = "" if self._stops.is_stopped else self._stops.feed(self._stream.finish()) + self._stops.rest()
        self._show(rest, is_last=True)
        last = result.token_ids[-1]
        return Generation(
            text="".join(self._texts),
            token_ids=result.token_ids,
            finish_reason=result.finish_reason,
            num_prompt_tokens=len(self._task.prompt_ids),
            num_completion_tokens=len(result.token_ids),
            num_cached_tokens=result.num_cached_tokens,
            drawn=result.drawn,
            meets_grammar=self.constraint is None or last in self._end_ids or self.constraint.is_met_by(last),
        )

    def _show(self, text: str, *, is_last: bool = False) -> None:
        if not text and not (is_last and self._drawn):
            return
        if text:
            self._texts.append(text)
        drawn, self._drawn = tuple(self._drawn), []
        if self._task.on_piece is not None:
            self._task.on_piece(Piece(text, drawn))
