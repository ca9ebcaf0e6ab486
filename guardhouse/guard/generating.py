"""Let the model write: one engine request, its text piece by piece.

Knows: how tokens become text, when a text ends.
Never knows: what the text says, policies, HTTP.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from guardhouse.engine.request import Request, RequestResult, SamplingParams
from guardhouse.guard.judging import Submit, then
from guardhouse.guard.streaming import TextStream
from guardhouse.model.tokenizer import Tokenizer

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Generation:
    """Text that the model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    num_prompt_tokens: int
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """What is to be written: after these ids, drawn like this."""

    prompt_ids: Sequence[int]
    sampling: SamplingParams
    on_text: OnText | None = None  # gets every piece, on the engine's thread
    deadline: float | None = None


def start_generation(task: GenerationTask, submit: Submit, tokenizer: Tokenizer) -> Future[Generation]:
    """Submit the task. Its text ends before the end-of-text token; cancelling the future frees the work."""
    stream = TextStream(tokenizer)
    end_ids = frozenset(tokenizer.eos_token_ids)
    show = task.on_text or _ignore

    def on_token(token_id: int) -> None:
        if token_id not in end_ids and (piece := stream.push(token_id)):
            show(piece)

    def generation(result: RequestResult) -> Generation:
        if rest := stream.finish():
            show(rest)
        num_tokens = len(result.token_ids)
        return Generation(stream.text, result.token_ids, result.finish_reason, len(task.prompt_ids), num_tokens)

    request = Request(
        np.array(task.prompt_ids, dtype=np.int32),
        sampling=replace(task.sampling, stop_token_ids=task.sampling.stop_token_ids | end_ids),
        on_token=on_token,
        deadline=task.deadline,
    )
    return then(submit(request), generation)


def _ignore(piece: str) -> None:
    """For callers who wait for the whole text."""
