"""What all JSON routes beside Workers AI's run route share: the body, the guard, the clock, the dialect of errors.

Knows: starlette, who is still connected, how a body becomes a struct.
Never knows: what a route asks or answers.
"""

import re
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.config import Settings
from guardhouse.errors import InputError, UnknownModel
from guardhouse.guard.guard import Guard
from guardhouse.guard.verdict import Verdict
from guardhouse.server.adapters.pool import AdapterPool
from guardhouse.server.dialect import error_reply_for
from guardhouse.server.errors import reply_or_error
from guardhouse.server.metrics import Metrics
from guardhouse.server.reply import REQUEST_ID_HEADER, json_reply
from guardhouse.server.service import ModelService
from guardhouse.server.transport import read_body, while_connected
from guardhouse.server.validate import decode_json

OPENAI_REQUEST_ID_HEADER = "x-request-id"  # where OpenAI's SDKs look
Lora = Annotated[str, Meta(description="a finetune's id or name: judge under its adapter")]
SHOWABLE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """One request on its way: what a handler may use to answer it."""

    guard: Guard
    names: tuple[str, ...]  # under which the model answers; the first is its own
    id: str
    timeout_s: float  # for one judgement or generation
    deadline: float  # time.monotonic() value until which a reply that is not streamed has to be there
    count: Callable[[Verdict], None]
    adapters: AdapterPool

    async def under(self, lora: str | None) -> "Context":
        """The same with the guard under this finetune, by id or name. Raises what AdapterPool.adapted does."""
        if not lora:
            return self
        return replace(self, guard=await self.adapters.adapted(self.guard, self.names[0], self.names, lora))

    @property
    def remaining_s(self) -> float:
        return max(0.001, self.deadline - time.monotonic())

    def require_model(self, name: str | None, also: Collection[str] = ()) -> str:
        """The model's own name. Raises UnknownModel unless that, an alias or one of `also` was asked for, or nothing."""
        if name is not None and name not in self.names and name not in also:
            raise UnknownModel(name)
        return self.names[0]

    @property
    def headers(self) -> dict[str, str]:
        return {REQUEST_ID_HEADER: self.id, OPENAI_REQUEST_ID_HEADER: self.id}

    def reply(self, payload: object) -> Response:
        return json_reply(payload, headers=self.headers)


Handler = Callable[[Context, Request, bytes], Awaitable[Response]]


class Handlers:
    """Makes what Starlette calls out of what answers a context. One per application."""

    def __init__(self, service: ModelService, settings: Settings, metrics: Metrics, adapters: AdapterPool) -> None:
        self._service = service
        self._adapters = adapters
        self._timeout_s = settings.request_timeout_s
        self._metrics = metrics

    def context(self, request_id: str, timeout_s: float | None = None) -> Context:
        """Raises ModelUnavailable while there is no guard. `timeout_s`: instead of the configured one."""
        timeout_s = timeout_s or self._timeout_s
        return Context(
            guard=self._service.guard,
            names=self._service.names,
            id=request_id,
            timeout_s=timeout_s,
            deadline=time.monotonic() + timeout_s,
            count=lambda verdict: self._metrics.observe_verdict(verdict.flagged),
            adapters=self._adapters,
        )

    def upload_handler(self, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
        """The same for a body that `handle` reads for itself."""

        async def endpoint(request: Request) -> Response:
            async def answered(request_id: str) -> Response:
                return await handle(self.context(request_id), request, b"")

            return await reply_or_error(answered, partial(error_reply_for, request.url.path))

        return endpoint

    def handler(self, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handle` with a context, the request and its whole body; its errors as replies in the path's dialect."""

        async def endpoint(request: Request) -> Response:
            async def answered(request_id: str) -> Response:
                body = await read_body(request.receive, self._timeout_s)
                return await while_connected(request.receive, handle(self.context(request_id), request, body))

            return await reply_or_error(answered, partial(error_reply_for, request.url.path))

        return endpoint


def decode_body(body: bytes, kind: type[T]) -> T:
    """JSON text -> struct. Whatever is wrong is an InputError that names the place and holds none of the caller's text."""
    return convert(decode_json(body), kind)


def convert(payload: object, kind: type[T]) -> T:
    """Parsed JSON -> struct, or InputError."""
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise InputError(_without_values(str(error))) from None


def _without_values(message: str) -> str:
    """msgspec quotes an unknown key, and a value that is none of an enumeration's."""
    reason, _, place = message.partition(" - at `$")
    if reason.startswith("Invalid enum value"):
        reason = "Invalid value: none of those that are known"
    if reason.startswith("Object contains unknown field"):
        key = reason.split("`")[1] if reason.count("`") >= 2 else ""
        reason = f"unknown field {key}" if SHOWABLE_KEY.fullmatch(key) else "unknown field"
    place = re.sub(r"\[\.\.\.\]", "[]", place.rstrip("`")).lstrip(".")
    return f"'{place}': {reason}" if place else reason
