"""POST /v1/render: the prompt that a judgement would read, part by part, and what each part costs in tokens.

Knows: the route's body and reply.
Never knows: templates, verdicts. Nothing is judged here.
"""

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.guard.guard import Guard
from guardhouse.guard.rendering import Rendering
from guardhouse.server.context import Context, decode_body
from guardhouse.server.judging.judge import parse_policy


class RenderRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation. `policy`: a category list; a system message's goes before it, the checkpoint's own behind."""

    messages: list[dict[str, Any]]
    policy: str | None = None


class RenderedPart(msgspec.Struct, frozen=True):
    """A stretch of the prompt: `head`, `content`, `joiner` or `tail`; `role` says who speaks in a content."""

    kind: str
    text: str
    num_tokens: int
    role: str | None


class RenderedCategory(msgspec.Struct, frozen=True):
    """One category of the policy."""

    code: str
    name: str
    description: str


class RenderedPolicy(msgspec.Struct, frozen=True):
    """What stands between the category markers."""

    name: str
    is_default: bool
    text: str
    num_tokens: int
    categories: list[RenderedCategory]


class RenderReply(msgspec.Struct, frozen=True):
    """`num_tokens` is what a judgement reads, `window` what the model takes at once."""

    role: str
    policy: RenderedPolicy
    parts: list[RenderedPart]
    num_tokens: int
    window: int


async def render(context: Context, _: Request, body: bytes) -> Response:
    """The route."""
    asked = decode_body(body, RenderRequest)
    return context.reply(await asyncio.to_thread(_rendered, context.guard, asked))  # a long text takes its time


def _rendered(guard: Guard, asked: RenderRequest) -> RenderReply:
    rendering = guard.render(asked.messages, policy=parse_policy(asked.policy))
    return RenderReply(
        role=rendering.role,
        policy=_policy(guard, rendering),
        parts=[RenderedPart(part.kind, part.text, part.num_tokens, part.role) for part in rendering.parts],
        num_tokens=rendering.num_tokens,
        window=guard.info.window,
    )


def _policy(guard: Guard, rendering: Rendering) -> RenderedPolicy:
    policy = rendering.policy
    return RenderedPolicy(
        name=policy.name,
        is_default=policy.text == guard.default_policy.text,
        text=policy.text,
        num_tokens=guard.count_tokens(policy.text),
        categories=[RenderedCategory(one.code, one.name, one.description) for one in policy.categories],
    )
