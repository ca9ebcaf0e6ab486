"""POST /v1/completions: exactly this text, and how the model goes on.

Knows: the body, the reply, the chunks of a stream.
Never knows: how tokens are drawn.

The caller owns the template, as with `raw` on Workers AI and as with other servers' completions: a prompt is text to go on
from, not a question to judge. Whoever wants a verdict asks /v1/chat/completions or /v1/moderations.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError
from guardhouse.guard.generating import Piece
from guardhouse.server.context import Context, decode_body
from guardhouse.server.openai.completion_options import CompletionOptions, sampling_of, usage_of
from guardhouse.server.openai.logprobs import completion_logprobs
from guardhouse.server.openai.streaming import Source, event_stream, write_all, write_steps
from guardhouse.server.openai.writing import Writing, Written, write

MAX_TEXTS = 64  # prompts times choices


class CompletionRequest(CompletionOptions, frozen=True, kw_only=True):
    """As much of OpenAI's body as has a meaning here."""

    prompt: str | list[str]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


async def completions(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, CompletionRequest)
    if not asked.stream:
        return context.reply(await complete_text(context, asked))
    return await event_stream(context, _chunks(context, asked))


async def complete_text(context: Context, asked: CompletionRequest) -> dict[str, Any]:
    """The reply's body to a request that is not streamed."""
    context = await context.under(asked.lora)
    heading = _heading(context, asked)
    written = await write_all(_sources(context, asked))
    choices = [
        _choice(context, asked, index, one.text, one.drawn, one.finish_reason) for index, one in enumerate(written)
    ]
    return {**heading, "choices": choices, "usage": _usage(asked, written)}


def _sources(context: Context, asked: CompletionRequest) -> list[Source]:
    """`n` for each prompt, prompt by prompt, as OpenAI numbers them."""
    for name in ("echo", "suffix"):
        if getattr(asked, name):
            raise InputError(f"'{name}' is not supported")
    if asked.best_of is not None and asked.best_of != (asked.n or 1):
        raise InputError("'best_of' is not supported")
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not 0 < len(prompts) * (asked.n or 1) <= MAX_TEXTS or not all(prompts):
        raise InputError(f"'prompt' must be 1 to {MAX_TEXTS} texts, none of them empty")
    sampling = sampling_of(asked, asked.max_tokens)
    writings = [Writing(prompt, sampling, asked.stops, asked.logprobs) for prompt in prompts]
    return [partial(write, context, writing, index) for writing in writings for index in range(asked.n or 1)]


def _choice(
    context: Context, asked: CompletionRequest, index: int, text: str, drawn: Any, reason: str | None, offset: int = 0
) -> dict[str, Any]:
    logprobs = None
    if asked.logprobs is not None:
        logprobs = completion_logprobs(drawn, context.guard.tokenizer, offset)
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def _heading(context: Context, asked: CompletionRequest) -> dict[str, Any]:
    model = context.require_model(asked.model)
    return {"id": f"cmpl-{context.id}", "object": "text_completion", "created": int(time.time()), "model": model}


def _usage(asked: CompletionRequest, written: list[Written]) -> dict[str, Any]:
    """Each prompt's tokens once."""
    usage = usage_of(written)
    prompt_tokens = sum(one.num_prompt_tokens for one in written[:: asked.n or 1])
    total = prompt_tokens + usage["completion_tokens"]
    return {**usage, "prompt_tokens": prompt_tokens, "total_tokens": total}


async def _chunks(context: Context, asked: CompletionRequest) -> AsyncGenerator[dict[str, Any], None]:
    context = await context.under(asked.lora)
    heading = _heading(context, asked)
    nothing: dict[str, Any] = {"usage": None} if asked.includes_usage else {}
    lengths: dict[int, int] = {}
    ended: dict[int, Written] = {}
    async with aclosing(write_steps(_sources(context, asked))) as steps:
        async for step in steps:
            piece = step.piece or Piece("", ())
            if step.written is not None:
                ended[step.index] = step.written
            reason = None if step.written is None else step.written.finish_reason
            offset = lengths.get(step.index, 0)
            lengths[step.index] = offset + len(piece.text)
            choice = _choice(context, asked, step.index, piece.text, piece.drawn, reason, offset)
            yield {**heading, "choices": [choice], **nothing}
    if asked.includes_usage:
        yield {**heading, "choices": [], "usage": _usage(asked, [ended[index] for index in sorted(ended)])}
