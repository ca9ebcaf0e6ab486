"""POST /beta/litellm_basic_guardrail_api: LiteLLM's generic guardrail contract, so that its proxy needs no code of ours.

Knows: LiteLLM's request (texts, structured_messages, tool_calls, images, input_type) and reply (action, blocked_reason).
Never knows: LiteLLM itself, what a verdict is made of.
Source: litellm 1.110, types/proxy/guardrails/guardrail_hooks/generic_guardrail_api.py and its documentation page.

    request   the conversation's last turn, in its context; without a conversation, every text by itself
    response  every text (and tool call) of the answer by itself, as the assistant's

System and developer messages are another model's instructions: they are neither judged nor read as a policy, whatever they
hold. The operator chooses through `additional_provider_specific_params` in LiteLLM's configuration:
    threshold  score from which to block       policy  category list to judge by
    scope      "last_turn" (default), or "all": each text of a request by itself as well
    images     "block" (default) or "ignore": this guard cannot see them
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError
from guardhouse.guard.conversation import Conversation, parse_messages
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict
from guardhouse.server.context import Context, decode_body
from guardhouse.server.judging.judge import PolicyText, Question, Threshold, judge_all, parse_policy, text_question

PATH = "/beta/litellm_basic_guardrail_api"
ROLES = {"user": "user", "assistant": "assistant", "tool": "tool", "function": "tool"}  # all others are instructions


class GuardrailOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator wrote into LiteLLM's configuration; keys of others are ignored."""

    threshold: Threshold | None = None
    policy: PolicyText | None = None
    scope: Literal["last_turn", "all"] = "last_turn"
    images: Literal["block", "ignore"] = "block"


class GuardrailRequest(msgspec.Struct, frozen=True, kw_only=True):
    """As much of LiteLLM's request as a judgement needs."""

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    structured_messages: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    images: list[str] | None = None
    additional_provider_specific_params: GuardrailOptions | None = None


class GuardrailReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """LiteLLM also knows GUARDRAIL_INTERVENED, for guards that rewrite texts. This one does not."""

    action: Literal["NONE", "BLOCKED"]
    blocked_reason: str | None = None


async def guardrail(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, GuardrailRequest)
    options = asked.additional_provider_specific_params or GuardrailOptions()
    if asked.images and options.images == "block":
        return context.reply(_blocked("an image was sent, and this guard judges text only"))
    policy = parse_policy(options.policy)
    conversations = list(dict.fromkeys(_conversations(asked, options)))
    questions = [Question(conversation, policy, options.threshold) for conversation in conversations]
    worst = max(await judge_all(context, questions), key=lambda verdict: verdict.score, default=None)
    if worst is None or not worst.flagged:  # no text at all: there is nothing that could be unsafe
        return context.reply(GuardrailReply("NONE"))
    return context.reply(_blocked(reason(worst, policy or context.guard.default_policy)))


def reason(verdict: Verdict, policy: Policy) -> str:
    """Why, in words that hold nothing of the text."""
    names = [f"{one.code} {one.name}" for one in policy.categories if one.code in verdict.codes]
    return f"unsafe by policy {policy.name}: {', '.join(names)} (score {verdict.score:.2f})"


def _blocked(why: str) -> GuardrailReply:
    return GuardrailReply("BLOCKED", why)


def _conversations(asked: GuardrailRequest, options: GuardrailOptions) -> Iterator[Conversation]:
    """What is to be judged; a text that is blank holds nothing to judge."""
    role: Literal["user", "assistant"] = "user" if asked.input_type == "request" else "assistant"
    conversation = _conversation(asked.structured_messages or []) if role == "user" else None
    if conversation is not None:
        yield conversation
    if conversation is None or options.scope == "all":
        for text in (*(asked.texts or ()), *map(_call_text, asked.tool_calls or ())):
            if text.strip():
                yield text_question(text, role).conversation


def _conversation(messages: Sequence[Mapping[str, Any]]) -> Conversation | None:
    """The turns among the messages, without images; None where there is none to judge."""
    turns = [
        {**message, "role": ROLES[message["role"]], "content": _text_parts(message.get("content"))}
        for message in messages
        if message.get("role") in ROLES
    ]
    try:
        return parse_messages(turns)
    except InputError:
        return None  # nothing but blanks or instructions: the texts are judged one by one


def _text_parts(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _call_text(tool_call: Mapping[str, Any]) -> str:
    function = tool_call.get("function")
    function = function if isinstance(function, Mapping) else {}
    arguments = function.get("arguments") or ""
    words = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f"{function.get('name') or ''} {words}".strip()
