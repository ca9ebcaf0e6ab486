"""What the guard answers to a chat or a prompt: its verdict where that is what was asked for, else text that it writes.

Knows: the guard's abilities, which question is a judgement.
Never knows: HTTP, anybody's wire format.

A question without randomness, constraints or log probabilities is a judgement: one forward pass, the configured threshold,
windows for long texts, a score. Its text and a greedy generation agree by construction of the guard.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guardhouse.engine.grammar import Grammar
from guardhouse.engine.request import Drawn, SamplingParams
from guardhouse.guard.generating import GenerateOptions, Generation, Piece
from guardhouse.guard.tools import Tool, call_lead, call_schema
from guardhouse.guard.verdict import Verdict
from guardhouse.server.context import Context
from guardhouse.server.submission import result_of
from guardhouse.server.workers_ai.question import MIN_VERDICT_TOKENS

Prompt = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Writing:
    """One question, and how it is to be answered."""

    prompt: Prompt  # text to go on from, or messages to judge
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    schema: Mapping[str, Any] | None = None  # what the text is held to
    tools: tuple[Tool, ...] = ()  # one of these must be called

    @property
    def is_judgement(self) -> bool:
        """True where the answer can only be the guard's greedy verdict."""
        wanted = self.sampling
        penalties = (wanted.repetition_penalty - 1.0, wanted.frequency_penalty, wanted.presence_penalty)
        is_free = not (wanted.temperature or any(penalties) or wanted.max_tokens < MIN_VERDICT_TOKENS)
        is_plain = not (self.stop or self.schema or self.tools) and self.num_logprobs is None
        return is_free and is_plain and not isinstance(self.prompt, str)

    @property
    def num_chars(self) -> int:
        if isinstance(self.prompt, str):
            return len(self.prompt)
        return sum(len(str(message.get("content"))) for message in self.prompt)


@dataclass(frozen=True, slots=True)
class Written:
    """The answer. `verdict` is there for every chat: also what was sampled is judged."""

    text: str
    finish_reason: str  # "stop" or "length"
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    drawn: tuple[Drawn, ...] = ()
    verdict: Verdict | None = None


async def write(context: Context, writing: Writing, index: int, on_piece: Callable[[Piece], None]) -> Written:
    """Answer choice number `index` of a question. `on_piece` gets the text in pieces, on any thread."""
    if writing.is_judgement:
        verdict = await _judged(context, writing, index)
        on_piece(Piece(verdict.text, ()))
        return Written(
            text=verdict.text,
            finish_reason="stop",
            num_prompt_tokens=verdict.num_prompt_tokens,
            num_completion_tokens=context.guard.count_answer_tokens(verdict.text),
            num_cached_tokens=verdict.num_cached_tokens,
            verdict=verdict,
        )
    if isinstance(writing.prompt, str):
        return _written(await _generated(context, writing, on_piece, index), None)
    if writing.schema or writing.tools:  # the verdict comes first, so that what is filled in can rest on it
        verdict = await _judged(context, writing, index)
        lead = call_lead(verdict.text, writing.tools) if writing.tools else f"{verdict.text}\n"
        return _written(await _generated(context, writing, on_piece, index, lead), verdict)
    generation = await _generated(context, writing, on_piece, index)
    return _written(generation, await _judged(context, writing, index))  # cheap: the prompt is in the cache


async def _judged(context: Context, writing: Writing, index: int) -> Verdict:
    verdict: Verdict = await result_of(
        lambda: context.guard.submit(writing.prompt, all_categories=True, timeout_s=context.remaining_s),
        writing.num_chars,
    )
    if index == 0:
        context.count(verdict)
    return verdict


async def _generated(
    context: Context, writing: Writing, on_piece: Callable[[Piece], None], index: int, lead: str = ""
) -> Generation:
    """Choices of one question differ by their seed. `lead`: what the model is to have written already."""
    seed = writing.sampling.seed
    options = GenerateOptions(
        raw=isinstance(writing.prompt, str),
        sampling=replace(writing.sampling, seed=None if seed is None else seed + index),
        lead=lead,
        grammar=await _compiled(context, call_schema(writing.tools) if writing.tools else writing.schema),
        stop=writing.stop,
        num_logprobs=writing.num_logprobs,
        on_piece=on_piece,
        timeout_s=context.remaining_s,
    )
    return await result_of(lambda: context.guard.generate(writing.prompt, **options), writing.num_chars)


async def _compiled(context: Context, schema: Mapping[str, Any] | None) -> Grammar | None:
    """Shielded: other requests may wait for the same grammar."""
    if schema is None:
        return None
    return await asyncio.shield(asyncio.wrap_future(context.guard.compile_schema(schema)))


def _written(generation: Generation, verdict: Verdict | None) -> Written:
    """The prompt is the caller's: what was put between it and the text is not counted."""
    return Written(
        text=generation.text,
        finish_reason=generation.finish_reason if generation.meets_grammar else "length",
        num_prompt_tokens=generation.num_prompt_tokens if verdict is None else verdict.num_prompt_tokens,
        num_completion_tokens=generation.num_completion_tokens,
        num_cached_tokens=generation.num_cached_tokens if verdict is None else verdict.num_cached_tokens,
        drawn=generation.drawn,
        verdict=verdict,
    )
