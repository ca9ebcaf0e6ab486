"""POST /v1/chat/completions: the guard as a chat model, whose answer is its verdict.

Knows: the body, the reply, the chunks of a stream.
Never knows: how an answer is found.

The last turn is judged, the others are its context (guard/conversation.py). What may be asked beyond a verdict:
`logprobs` of the guard's own tokens (the text is then the model's, whatever the threshold); other text, by sampling;
`response_format`: `json_object` is the verdict as {"safe": …, "categories": […]}, as Workers AI's Llama Guard 3 has it,
and `json_schema` holds the model's text to a schema; a tool call, where `tool_choice` demands one. Replies carry `verdict`
beside OpenAI's fields.
"""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.engine.request import SamplingParams
from guardhouse.errors import InputError
from guardhouse.guard.generating import Piece
from guardhouse.guard.tools import Tool, ToolCall, demanded, parse_call, parse_choice, parse_tools
from guardhouse.guard.verdict import Verdict
from guardhouse.server.context import Context, decode_body
from guardhouse.server.openai.completion_options import CompletionOptions, sampling_of, usage_of
from guardhouse.server.openai.logprobs import chat_logprobs
from guardhouse.server.openai.streaming import Source, event_stream, write_all, write_steps
from guardhouse.server.openai.writing import Writing, Written, write

REFUSED = Meta(description="refused")
INSTRUCTION_ROLES = {"developer": "system", "function": "tool"}  # newer and older names of OpenAI's


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    """OpenAI's wrapper around a schema."""

    schema: dict[str, Any]
    name: str = ""
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ChatRequest(CompletionOptions, frozen=True, kw_only=True):
    """As much of OpenAI's body as has a meaning here."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    moderation: Annotated[dict[str, Any], REFUSED] | None = None
    functions: Annotated[list[Any], REFUSED] | None = None
    audio: Annotated[dict[str, Any], REFUSED] | None = None


async def chat_completions(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, ChatRequest)
    if not asked.stream:
        return context.reply(await complete_chat(context, asked))
    return await event_stream(context, _chunks(context, asked))


async def complete_chat(context: Context, asked: ChatRequest) -> dict[str, Any]:
    """The reply's body to a request that is not streamed."""
    context = await context.under(asked.lora)
    heading = _heading(context, asked, "chat.completion")
    written = await write_all(_sources(context, asked))
    choices = [_choice(context, asked, index, one) for index, one in enumerate(written)]
    return {**heading, "choices": choices, "usage": usage_of(written), **_verdict(written)}


def _choice(context: Context, asked: ChatRequest, index: int, written: Written) -> dict[str, Any]:
    message, reason = _message(context, asked, index, written)
    logprobs = chat_logprobs(written.drawn, context.guard.tokenizer) if asked.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _message(context: Context, asked: ChatRequest, index: int, written: Written) -> tuple[dict[str, Any], str]:
    """(message, finish_reason)."""
    message: dict[str, Any] = {"role": "assistant", "content": _content(asked, written), "refusal": None}
    call = parse_call(written.text) if demanded_tools(asked) and written.finish_reason == "stop" else None
    if call is None:
        return message, written.finish_reason
    calls = [_tool_call(call, f"call_{context.id[:24]}{index}")]
    return {**message, "content": None, "tool_calls": calls}, "tool_calls"


def _tool_call(call: ToolCall, call_id: str) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.arguments).decode()
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def demanded_tools(asked: ChatRequest) -> tuple[Tool, ...]:
    """Those of which one must be called. A guard calls none of its own accord: "auto" is answered with the verdict."""
    tools = parse_tools(asked.tools or ())
    if not tools and asked.tool_choice not in (None, "none", "auto"):
        raise InputError("'tool_choice' demands a tool, and 'tools' offers none")
    return demanded(tools, parse_choice(asked.tool_choice, tools))


def _content(asked: ChatRequest, written: Written) -> str:
    if _wants_verdict_object(asked) and written.verdict is not None:
        return verdict_object(written.verdict)
    return written.text


def verdict_object(verdict: Verdict) -> str:
    """The verdict as JSON text.

    >>> verdict_object(guard.check("How do I bake bread?"))  # doctest: +SKIP
    '{"safe":true,"categories":[]}'
    """
    return msgspec.json.encode({"safe": not verdict.flagged, "categories": verdict.codes}).decode()


def _sources(context: Context, asked: ChatRequest) -> list[Source]:
    """One per choice."""
    writing = read_writing(asked)
    return [partial(write, context, writing, index) for index in range(asked.n or 1)]


def read_writing(asked: ChatRequest) -> Writing:
    """Raises InputError for what cannot be honoured."""
    for name in ("moderation", "functions", "audio"):
        if getattr(asked, name):
            raise InputError(f"'{name}' is not supported here")
    if asked.top_logprobs and not asked.logprobs:
        raise InputError("'top_logprobs' needs 'logprobs'")
    prompt = [_message_in(message) for message in asked.messages]
    tools = demanded_tools(asked)
    if _wants_verdict_object(asked):
        if tools or asked.logprobs:
            raise InputError("'response_format' json_object goes with neither 'logprobs' nor a forced tool call")
        return Writing(prompt, SamplingParams())
    return Writing(
        prompt=prompt,
        sampling=sampling_of(asked, asked.max_completion_tokens or asked.max_tokens),
        stop=() if tools else asked.stops,  # a call is not cut
        num_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        schema=_schema(asked.response_format),
        tools=tools,
    )


def _message_in(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    return {**message, "role": INSTRUCTION_ROLES.get(role, role) if isinstance(role, str) else role}


def _schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type != "json_schema":
        return None
    if wanted.json_schema is None:
        raise InputError("'response_format' json_schema needs a 'json_schema'")
    return wanted.json_schema.schema


def _wants_verdict_object(asked: ChatRequest) -> bool:
    return asked.response_format is not None and asked.response_format.type == "json_object"


def _heading(context: Context, asked: ChatRequest, kind: str) -> dict[str, Any]:
    model = context.require_model(asked.model)
    return {"id": f"chatcmpl-{context.id}", "object": kind, "created": int(time.time()), "model": model}


def _verdict(written: Sequence[Written]) -> dict[str, Any]:
    return {"verdict": written[0].verdict.as_dict()} if written[0].verdict is not None else {}


async def _chunks(context: Context, asked: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
    context = await context.under(asked.lora)
    heading = _heading(context, asked, "chat.completion.chunk")
    nothing: dict[str, Any] = {"usage": None} if asked.includes_usage else {}
    begun: set[int] = set()
    ended: dict[int, Written] = {}

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**heading, "choices": [choice], **nothing}

    is_whole = _wants_verdict_object(asked) or bool(demanded_tools(asked))
    async with aclosing(write_steps(_sources(context, asked))) as steps:
        async for step in steps:
            if step.index not in begun:
                begun.add(step.index)
                yield chunk(step.index, {"role": "assistant", "content": "", "refusal": None})
            if step.piece is not None and not is_whole and (step.piece.text or asked.logprobs):
                yield chunk(step.index, {"content": step.piece.text}, None, _piece_logprobs(context, asked, step.piece))
            if step.written is not None:
                ended[step.index] = step.written
                message, reason = _message(context, asked, step.index, step.written)
                if is_whole:
                    yield chunk(step.index, _delta(message))
                yield {**chunk(step.index, {}, reason), **_verdict([step.written])}
    if asked.includes_usage:
        yield {**heading, "choices": [], "usage": usage_of([ended[index] for index in sorted(ended)])}


def _piece_logprobs(context: Context, asked: ChatRequest, piece: Piece) -> dict[str, Any] | None:
    return chat_logprobs(piece.drawn, context.guard.tokenizer) if asked.logprobs else None


def _delta(message: Mapping[str, Any]) -> dict[str, Any]:
    if "tool_calls" in message:
        return {"tool_calls": [{"index": number, **one} for number, one in enumerate(message["tool_calls"])]}
    return {"content": message["content"]}
