"""Which exception becomes which HTTP answer: one table.

Knows: every exception that may reach a route, its status, code and title on the wire.
Never knows: how the answer is delivered (a response, or an event in a stream).

8008 is what the reference service says when its engine fails. A verdict that could not be read is such a failure: the
caller sees an error, never "safe".
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from guardhouse.errors import (
    AdapterError,
    ContextOverflow,
    DeadlineExceeded,
    EngineClosed,
    GuardhouseError,
    InputError,
    PolicyError,
    QueueFull,
    SchemaUnmet,
    UnknownModel,
    VerdictError,
)
from guardhouse.server.reply import REQUEST_ID_HEADER, BindingError, json_reply, new_request_id, service_error

CLIENT_CLOSED_REQUEST = 499  # nobody is there to read it: for the log and the metrics only


class BodyTooLarge(GuardhouseError):
    """The body exceeds the limit; nothing of it was parsed."""


class BodyTimeout(GuardhouseError):
    """The body did not arrive in time."""


class LoraUnsupported(GuardhouseError):
    """The caller named an adapter; the served model takes none."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model


class UnknownFinetune(GuardhouseError):
    """No finetune of that id or name."""

    def __init__(self, name: str) -> None:
        super().__init__("no such finetune")
        self.name = name


class IncompleteFinetune(GuardhouseError):
    """Not all of a finetune's files were uploaded yet."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__(f"missing: {', '.join(missing)}")
        self.missing = missing


class StreamedSchema(GuardhouseError):
    """A JSON Schema and a stream at once: what is cut short would meet no schema."""


class MissingPart(GuardhouseError):
    """A header, or a part of the body, is not there."""


class DeprecatedSdk(GuardhouseError):
    """The caller speaks a version of the binding's protocol that is no longer served."""


class UnknownJob(GuardhouseError):
    """No stored job of that id: it never was, or its results have expired."""


class ModelUnavailable(GuardhouseError):
    """The model is still loading, or could not be loaded."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as the wire tells it."""

    status: int
    code: int
    title: str
    description: str
    headers: dict[str, str] = field(default_factory=dict)

    def message(self, request_id: str) -> str:
        return f"AiError: {self.title}: {self.description} ({request_id})"


def _bad_input(error: Any) -> Failure:
    return Failure(400, 5006, "Bad input", f"Error: {error}")


def _unknown_model(error: Any) -> Failure:
    return Failure(400, 5007, "No such model", f"No such model {printable(error.name)} or task")


def _lora_unsupported(error: Any) -> Failure:
    return Failure(405, 5005, "AiError", f"The model {error.model} does not support LoRa inference")


def _unknown_finetune(error: Any) -> Failure:
    return Failure(404, 3037, "AiError", f"Finetune {printable(error.name)} not found")


def _incomplete_finetune(error: Any) -> Failure:
    return Failure(400, 3039, "AiError", f"Finetune missing required files: {', '.join(error.missing)}")


def _context_overflow(error: Any) -> Failure:
    return Failure(
        413,
        5021,
        "Ai",
        f"The estimated number of input and maximum output tokens ({error.num_tokens}) exceeded this model context "
        f"window limit ({error.window}).",
    )


def _queue_full(error: Any) -> Failure:
    text = "Capacity temporarily exceeded, please try again."
    return Failure(429, 3040, "AiError", text, {"retry-after": str(error.retry_after_s)})


def _unavailable(reason: str) -> Failure:
    return Failure(503, 7009, "Upstream service unavailable", reason, {"retry-after": "2"})


_TIMEOUT = Failure(408, 3007, "AiError", "Request timeout")
_INTERNAL = Failure(500, 8008, "AiError", "Internal server error")

# Looked up by the most derived class. Functions get the exception; its words hold no user text (guardhouse/errors.py).
TABLE: dict[type[Exception], Failure | Callable[[Any], Failure]] = {
    InputError: _bad_input,
    PolicyError: _bad_input,
    ContextOverflow: _context_overflow,
    UnknownModel: _unknown_model,
    UnknownJob: Failure(404, 5006, "Bad input", "Error: no such request_id, or its results have expired"),
    LoraUnsupported: _lora_unsupported,
    UnknownFinetune: _unknown_finetune,
    IncompleteFinetune: _incomplete_finetune,
    AdapterError: _bad_input,
    MissingPart: lambda error: Failure(400, 3003, "AiError", f"Request is missing headers or body: {error}"),
    DeprecatedSdk: Failure(405, 5019, "AiError", "Request trying to use deprecated SDK version"),
    BodyTooLarge: Failure(413, 3006, "AiError", "Request is too large"),
    BodyTimeout: _TIMEOUT,
    DeadlineExceeded: _TIMEOUT,
    QueueFull: _queue_full,
    ModelUnavailable: lambda error: _unavailable(str(error)),
    EngineClosed: _unavailable("the engine is shut down"),
    SchemaUnmet: Failure(400, 5024, "AiError", "JSON Mode couldn't be met"),
    StreamedSchema: Failure(400, 5023, "AiError", "JSON Schema mode is not supported with stream mode"),
    VerdictError: Failure(500, 8008, "AiError", "Internal server error: the model gave no verdict"),
    Exception: _INTERNAL,
}


def describe(error: Exception) -> Failure:
    """The table's row for an exception. A 500 is logged with its stack, but not its message: that may quote a text."""
    row = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    failure = row if isinstance(row, Failure) else row(error)
    if failure.status == 500:
        frames = "".join(traceback.format_tb(error.__traceback__))
        logging.getLogger("guardhouse.server").error("internal error %s\n%s", type(error).__name__, frames)
    return failure


async def reply_or_error(
    handle: Callable[[str], Awaitable[Response]], to_reply: Callable[[Exception, str], Response]
) -> Response:
    """Give `handle` a new request id; whatever it raises becomes the answer that `to_reply` makes of it."""
    request_id = new_request_id()
    try:
        return await handle(request_id)
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except Exception as error:  # the table has a row for everything; an unforeseen one is a logged 500
        return to_reply(error, request_id)


def error_reply(error: Exception, request_id: str) -> Response:
    """The REST API's answer to an exception."""
    failure = describe(error)
    headers = {REQUEST_ID_HEADER: request_id, **failure.headers}
    return service_error(failure.status, failure.code, failure.message(request_id), headers)


def binding_error_reply(error: Exception, request_id: str) -> Response:
    """The same for a Worker's binding: a flat object, whose description goes without title and request id."""
    failure = describe(error)
    body = BindingError(
        internal_code=failure.code,
        http_code=failure.status,
        message=failure.message(request_id),
        description=failure.description,
        request_id=request_id,
    )
    return json_reply(body, failure.status, {REQUEST_ID_HEADER: request_id, **failure.headers})


def printable(name: str) -> str:
    """A name or path that a caller typed, fit for an error's message."""
    return "".join(character if character.isprintable() else "?" for character in name[:200])
