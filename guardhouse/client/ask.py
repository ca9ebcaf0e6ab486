"""What the clients send, how they read what comes back, and when they try again.

Knows: the server's routes, its errors in both dialects, statuses that may pass.
Never knows: connections, how to wait.
"""

import email.utils
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from guardhouse.errors import GuardhouseError
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict

DEFAULT_URL = "http://127.0.0.1:8787"
RETRIED = frozenset({408, 429, *range(500, 600)})  # statuses after which the same request may well succeed
FIRST_DELAY_S, MAX_DELAY_S = 0.5, 8.0
MAX_RETRY_AFTER_S = 60.0  # a server that asks for more is taken at its word: the error is raised at once
CHUNK = 64  # inputs of check_many in one request

T = TypeVar("T")
Judged = str | Sequence[Mapping[str, object]]


class CheckOptions(TypedDict, total=False):
    """How to judge; what is not said is as the server has it."""

    policy: Policy | str | None  # a category list, instead of the checkpoint's own
    threshold: float | None  # the score from which a text is flagged
    lora: str | None  # a finetune's id or name


class ApiError(GuardhouseError):
    """The server answered with an error. `code` is OpenAI's word or Workers AI's number, if it gave one."""

    def __init__(self, status: int, message: str, code: str | int | None, request_id: str | None) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.request_id = request_id


class ConnectionFailed(GuardhouseError):
    """No answer: the server could not be reached, or took longer than the timeout."""


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One request and how its answer is read."""

    method: str
    path: str
    body: object
    read: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class Retries:
    """When to try again, and after how long. Checks change nothing on the server, so they may be repeated."""

    max_retries: int = 2

    def delay_s(self, attempt: int, response: httpx2.Response | None) -> float | None:
        """Seconds to wait after try number `attempt` (from 0) had this response, or none; None: do not try again.

        `Retry-After` is honoured; without it the wait doubles from half a second, with a random part so that clients
        that failed together do not return together.
        """
        if attempt >= self.max_retries or (response is not None and response.status_code not in RETRIED):
            return None
        wanted = None if response is None else retry_after_s(response.headers.get("retry-after"))
        if wanted is None:
            ceiling = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0**attempt)
            return ceiling * (0.5 + random.random() / 2)
        return wanted if wanted <= MAX_RETRY_AFTER_S else None


def retry_after_s(header: str | None) -> float | None:
    """Seconds from a Retry-After header, a number or a date; None where it is neither.

    >>> retry_after_s("3"), retry_after_s("soon")
    (3.0, None)
    """
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def check_ask(conversation: Judged, options: CheckOptions) -> Ask[Verdict]:
    body = {**_input(conversation), **_wire(options)}
    return Ask("POST", "/v1/check", body, lambda payload: msgspec.convert(payload, Verdict))


def chunk_ask(conversations: Sequence[Judged], options: CheckOptions) -> Ask[list[Verdict]]:
    body = {"inputs": [_input(one) for one in conversations], **_wire(options)}
    return Ask("POST", "/v1/check", body, lambda payload: msgspec.convert(payload["results"], list[Verdict]))


def run_ask(model: str, inputs: Mapping[str, object], account: str) -> Ask[dict[str, Any]]:
    path = f"/client/v4/accounts/{quote(account, safe='')}/ai/run/{quote(model, safe='@/')}"
    return Ask("POST", path, {**inputs, "stream": False}, lambda payload: dict(payload["result"]))


def moderate_ask(texts: str | Sequence[str], options: Mapping[str, object]) -> Ask[dict[str, Any]]:
    return Ask("POST", "/v1/moderations", {"input": texts, **options}, dict)


def info_ask() -> Ask[dict[str, Any]]:
    return Ask("GET", "/info", None, dict)


def api_error(response: httpx2.Response) -> ApiError:
    """Either dialect's error, or the status alone where the body is neither (a proxy's page, say)."""
    request_id = response.headers.get("x-request-id") or response.headers.get("cf-ai-req-id")
    try:
        payload = msgspec.json.decode(response.content)
        error = payload["error"] if "error" in payload else payload["errors"][0]
        return ApiError(response.status_code, str(error["message"]), error.get("code"), request_id)
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError):
        return ApiError(response.status_code, response.reason_phrase or "no message", None, request_id)


def body_of(ask: Ask[Any]) -> dict[str, Any]:
    return {} if ask.body is None else {"json": ask.body}


def read_answer(ask: Ask[T], response: httpx2.Response) -> T:
    if not response.is_success:
        raise api_error(response)
    try:
        return ask.read(msgspec.json.decode(response.content))
    except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
        text = "the answer is none of Guardhouse's: is the base URL right?"
        raise ApiError(response.status_code, text, None, None) from error


def _input(conversation: Judged) -> dict[str, object]:
    return {"text": conversation} if isinstance(conversation, str) else {"messages": list(conversation)}


def _wire(options: CheckOptions) -> dict[str, object]:
    policy = options.get("policy")
    return {**options, "policy": policy.text} if isinstance(policy, Policy) else {**options}


def chunks_of(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def headers_of(api_key: str | None) -> dict[str, str]:
    return {} if api_key is None else {"authorization": f"Bearer {api_key}"}
