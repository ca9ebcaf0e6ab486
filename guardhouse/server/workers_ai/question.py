"""One validated input on its way to an answer: its sampling parameters, its deadline, and how to ask the guard.

Knows: what the run schema's fields mean to the guard.
Never knows: HTTP, which kind of answer is wanted (answer.py, structured.py).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import msgspec

from guardhouse.engine.grammar import Grammar
from guardhouse.engine.request import SamplingParams
from guardhouse.errors import DeadlineExceeded, InputError
from guardhouse.guard.generating import Generation, OnPiece, Piece
from guardhouse.guard.guard import Guard
from guardhouse.guard.tools import ToolCall
from guardhouse.guard.verdict import Verdict
from guardhouse.server.submission import result_of
from guardhouse.server.workers_ai.schema import RunInput, RunOutput, Usage

MIN_TEMPERATURE = 1e-3  # below, logits divided by it overflow or leave one token anyway: greedy
MIN_TOP_P = 1e-6  # 0 is legal on the wire: the likeliest token stays
OFF = (None, 0, 1)  # a repetition penalty that changes nothing
MIN_VERDICT_TOKENS = 16  # a smaller max_tokens may cut a verdict short: then it is a generation of that many tokens


class Delta(msgspec.Struct, frozen=True):
    """The next part of an answer."""

    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()


Emit = Callable[[Delta], None]


class Answer(msgspec.Struct, frozen=True):
    """What was found out about one input."""

    output: RunOutput
    verdict: Verdict | None


class Question:
    """Asks one guard about one input. Everything together must be done by one deadline."""

    def __init__(self, guard: Guard, run: RunInput, timeout_s: float, emit: Emit) -> None:
        if run.max_tokens < 1:
            raise InputError("'/max_tokens' must be >= 1")
        self.guard = guard
        self.run = run
        self.emit = emit
        self.tools = run.offered_tools
        self._deadline = time.monotonic() + timeout_s
        self._num_chars = _num_chars(run.messages) if run.prompt is None else len(run.prompt)

    @property
    def is_judgement(self) -> bool:
        """True where the answer can only be the guard's greedy verdict: nothing is drawn, and nothing cut short."""
        run = self.run
        is_penalised = run.repetition_penalty not in OFF or run.frequency_penalty or run.presence_penalty
        is_random = (run.temperature or 0.0) >= MIN_TEMPERATURE
        return not (run.raw or is_random or is_penalised or run.max_tokens < MIN_VERDICT_TOKENS)

    @cached_property
    def sampling(self) -> SamplingParams:
        """The engine's parameters for what the caller said; what was not said is off."""
        run = self.run
        temperature = run.temperature or 0.0
        return SamplingParams(
            max_tokens=run.max_tokens,
            temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
            top_k=run.top_k or 0,
            top_p=1.0 if run.top_p is None else max(run.top_p, MIN_TOP_P),
            seed=run.seed,
            repetition_penalty=1.0 if run.repetition_penalty in OFF else run.repetition_penalty,
            frequency_penalty=run.frequency_penalty or 0.0,
            presence_penalty=run.presence_penalty or 0.0,
        )

    def calls(self, call: ToolCall | None = None) -> list[dict[str, Any]] | None:
        """What stands under "tool_calls": a list wherever tools were offered, even an empty one."""
        if call is not None:
            return [{"name": call.name, "arguments": call.arguments}]
        return [] if self.tools else None

    def emit_piece(self, piece: Piece) -> None:
        if piece.text:
            self.emit(Delta(piece.text))

    def verdict(self) -> Awaitable[Verdict]:
        run = self.run

        def judge() -> Future[Verdict]:
            left_s = max(0.0, self._deadline - time.monotonic())
            if run.prompt is not None:
                return self.guard.submit_prompt(run.prompt, all_categories=True, timeout_s=left_s)
            return self.guard.submit(run.messages, all_categories=True, timeout_s=left_s)

        return result_of(judge, self._num_chars)

    async def generation(
        self, *, lead: str = "", grammar: Grammar | None = None, on_piece: OnPiece | None = None
    ) -> Generation:
        """What the model writes, after its `lead`."""
        run = self.run
        prompt = run.messages if run.prompt is None else run.prompt
        if run.raw and run.prompt is None:
            prompt = _joined(run.messages)

        def generate() -> Future[Generation]:
            return self.guard.generate(
                prompt,
                raw=run.raw,
                sampling=self.sampling,
                lead=lead,
                grammar=grammar,
                on_piece=on_piece,
                timeout_s=self._left_s(),
            )

        return await result_of(generate, self._num_chars)

    async def compiled(self, compile_it: Callable[[], "Future[Grammar]"]) -> Grammar:
        """A grammar, once it is compiled; others may wait for the same one, so it is not cancelled with this question."""
        compiling = asyncio.wrap_future(await asyncio.to_thread(compile_it))
        compiling.add_done_callback(lambda done: done.cancelled() or done.exception())  # if nobody waits any more
        try:
            return await asyncio.wait_for(asyncio.shield(compiling), self._left_s())
        except TimeoutError:
            raise DeadlineExceeded("the request's time was up before its grammar was compiled") from None

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def usage_of(num_prompt_tokens: int, num_completion_tokens: int) -> Usage:
    return Usage(num_prompt_tokens, num_completion_tokens, num_prompt_tokens + num_completion_tokens)


def _joined(messages: Any) -> str:
    """`raw` messages: their contents, one after the other, without a template."""
    found = [message.get("content") for message in messages if isinstance(message, dict)]
    contents = [content for content in found if isinstance(content, str)]
    if not contents or len(contents) < len(messages):
        raise InputError("with raw, messages must be a list of objects whose content is text")
    return "\n".join(contents)


def _num_chars(messages: Any) -> int:
    return sum(len(str(message.get("content"))) for message in messages if isinstance(message, dict))
