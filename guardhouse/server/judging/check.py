"""POST /v1/check: Guardhouse's own verdict in full, for one input, several, or a stream of many.

Knows: its body, its replies, NDJSON.
Never knows: tokens, how a verdict is found.

    {"text": "…"}                                     one verdict
    {"messages": [{"role": "user", "content": "…"}]}  one verdict, of the last turn in its conversation
    {"inputs": ["…", {"text": …}, {"messages": …}]}   {"results": [verdict, …]}, in order; the first error refuses all
    … "stream": true, or a body of NDJSON             one line per input as it is judged: {"index": 0, "verdict": {…}},
                                                      or {"index": 0, "error": {…}}; errors stay with their line
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import GuardhouseError, InputError
from guardhouse.guard.conversation import Role
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict, Window
from guardhouse.server.context import Context, Lora, convert, decode_body
from guardhouse.server.dialect import error_object
from guardhouse.server.errors import describe
from guardhouse.server.judging.judge import (
    PolicyText,
    Question,
    Threshold,
    judge,
    judge_all,
    judge_each,
    messages_question,
    parse_policy,
    text_question,
)
from guardhouse.server.transport import LineStream
from guardhouse.server.validate import decode_json

NDJSON_TYPES = ("application/x-ndjson", "application/jsonl", "application/jsonlines")


class CheckInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to judge: `text` said by `role`, or `messages`. What is not said comes from the request around it."""

    text: Annotated[str, Meta(description="what one side said")] | None = None
    messages: Annotated[list[dict[str, Any]], Meta(description="a conversation; its last turn is judged")] | None = None
    role: Annotated[Role, Meta(description="who wrote `text`; the user unless said")] | None = None
    policy: PolicyText | None = None
    threshold: Threshold | None = None


class CheckRequest(CheckInput, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input, or several as `inputs`."""

    inputs: Annotated[list[str | CheckInput], Meta(description="several, with these options by default")] | None = None
    stream: Annotated[bool, Meta(description="answer with a line of JSON per input, as each is judged")] = False
    model: str | None = None
    lora: Lora | None = None


class FullVerdict(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that is known about one input."""

    flagged: Annotated[bool, Meta(description="the score reaches the threshold")]
    score: Annotated[float, Meta(description="P(unsafe), 0 to 1")]
    mass: Annotated[float, Meta(description="P(safe) + P(unsafe) over the whole vocabulary")]
    categories: Annotated[dict[str, float], Meta(description="code: share of the score")]
    category_names: Annotated[dict[str, str], Meta(description="code: name")]
    codes: Annotated[tuple[str, ...], Meta(description="all that the model names; none where it is not flagged")]
    text: Annotated[str, Meta(description='"safe", or "unsafe" and a line with the codes')]
    policy: str
    role: str
    threshold: float
    num_prompt_tokens: int
    num_cached_tokens: int
    windows: Annotated[tuple[Window, ...], Meta(description="parts of a long text; one for all others")]
    id: str | None = None
    model: str | None = None


async def check(context: Context, request: Request, body: bytes) -> Response:
    """The route."""
    if _content_type(request) in NDJSON_TYPES:
        return _stream(context, list(_lines(body)))
    asked = decode_body(body, CheckRequest)
    context.require_model(asked.model)
    context = await context.under(asked.lora)
    if asked.stream:
        return _stream(context, [asked] if asked.inputs is None else _with_defaults(asked))
    return context.reply(await check_input(context, asked))


async def check_input(context: Context, asked: CheckRequest) -> FullVerdict | dict[str, Any]:
    """The reply's body to a request that is not streamed."""
    heading = {"id": context.id, "model": context.names[0]}
    if asked.inputs is None:
        question = read_question(asked)
        return full_verdict(context, question, await judge(context, question), **heading)
    questions = [read_question(one) for one in _with_defaults(asked)]
    if not questions:
        raise InputError("'inputs' is empty")
    verdicts = await judge_all(context, questions)
    results = [full_verdict(context, *pair) for pair in zip(questions, verdicts, strict=True)]
    return {**heading, "results": results}


def read_question(asked: CheckInput) -> Question:
    """Raises InputError unless there is exactly one of `text` and `messages`; PolicyError for a broken policy."""
    policy = parse_policy(asked.policy)
    if (asked.text is None) == (asked.messages is None):
        raise InputError("give either 'text' or 'messages', or several as 'inputs'")
    if asked.text is not None:
        question = text_question(asked.text, asked.role or "user", policy)
    elif asked.role is not None:
        raise InputError("'role' goes with 'text'; messages have their own")
    else:
        question = messages_question(asked.messages or [], policy)
    return Question(question.conversation, policy, asked.threshold)


def full_verdict(context: Context, question: Question, verdict: Verdict, **heading: Any) -> FullVerdict:
    """Everything that is known, the categories' names included."""
    policy: Policy = context.guard.policy_of(question.conversation, policy=question.policy)
    names = {category.code: category.name for category in policy.categories}
    known = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
    return FullVerdict(**known, text=verdict.text, category_names=names, **heading)


def _with_defaults(asked: CheckRequest) -> list[CheckInput]:
    if asked.text is not None or asked.messages is not None:
        raise InputError("give either 'inputs', or one 'text' or 'messages'")
    inputs = [CheckInput(text=one) if isinstance(one, str) else one for one in asked.inputs or ()]
    return [
        msgspec.structs.replace(
            one,
            role=one.role or (asked.role if one.text is not None else None),
            policy=asked.policy if one.policy is None else one.policy,
            threshold=asked.threshold if one.threshold is None else one.threshold,
        )
        for one in inputs
    ]


def _lines(body: bytes) -> Iterator[CheckInput | InputError]:
    """One input per line, a JSON string or an object; a line that is neither is that line's error."""
    for line in body.splitlines():
        if line.strip():
            try:
                payload = decode_json(line)
                yield CheckInput(text=payload) if isinstance(payload, str) else convert(payload, CheckInput)
            except InputError as error:
                yield error


def _stream(context: Context, inputs: Sequence[CheckInput | Exception]) -> Response:
    return LineStream(_judged_lines(context, inputs), context.headers)


async def _judged_lines(context: Context, inputs: Sequence[CheckInput | Exception]) -> AsyncGenerator[bytes, None]:
    questions: dict[int, Question] = {}  # those in flight: their policies name the categories

    def read() -> Iterator[Question | Exception]:
        for index, one in enumerate(inputs):
            try:
                questions[index] = read_question(_or_raise(one))
                yield questions[index]
            except GuardhouseError as error:
                yield error

    async with aclosing(judge_each(context, read(), context.timeout_s)) as judged:
        async for index, outcome in judged:
            question = questions.pop(index, None)
            if isinstance(outcome, Exception):
                yield _line({"index": index, **error_object(describe(outcome), outcome)})
            elif question is not None:
                yield _line({"index": index, "verdict": full_verdict(context, question, outcome)})


def _or_raise(one: CheckInput | Exception) -> CheckInput:
    if isinstance(one, Exception):
        raise one
    return one


def _line(payload: object) -> bytes:
    return msgspec.json.encode(payload) + b"\n"


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
