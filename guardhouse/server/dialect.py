"""In which shape a path tells its errors: Workers AI's v4 envelope, or OpenAI's error object.

Knows: both shapes, and which paths speak which.
Never knows: routes, bodies.

OpenAI's object is spoken where OpenAI's SDKs and their relatives call. Under /client/v4 the hosted service kept its
envelope even for /ai/v1, and so do we.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from guardhouse.server.errors import Failure, describe, error_reply
from guardhouse.server.reply import REQUEST_ID_HEADER, edge_error, json_reply

BAD_INPUT = 5006
OPENAI_PATHS = ("/v1/", "/beta/", "/tokenize", "/detokenize", "/generative_scoring", "/info", "/version")


@dataclass(frozen=True, slots=True)
class OpenAIError:
    """`type` and `code` of an OpenAI error; a status other than the envelope's where OpenAI has another."""

    type: str
    code: str | None
    status: int | None = None
    param: str | None = None


# By the code that the envelope would carry. Sources: OpenAI's error-code guide, and the classes of its SDKs, which go by
# the status alone.
BY_CODE = {
    5006: OpenAIError("invalid_request_error", None),
    5007: OpenAIError("invalid_request_error", "model_not_found", 404, "model"),
    5021: OpenAIError("invalid_request_error", "context_length_exceeded", 400),
    3006: OpenAIError("invalid_request_error", "request_too_large"),
    3007: OpenAIError("timeout_error", "timeout"),
    3040: OpenAIError("rate_limit_error", "rate_limit_exceeded"),
    7009: OpenAIError("server_error", "service_unavailable"),
    8008: OpenAIError("server_error", None),
    10000: OpenAIError("invalid_request_error", "invalid_api_key"),
    7000: OpenAIError("invalid_request_error", "unknown_url", 404),
    7001: OpenAIError("invalid_request_error", "method_not_supported"),
    6003: OpenAIError("invalid_request_error", "invalid_headers"),
}


def speaks_openai(path: str) -> bool:
    return path.startswith(OPENAI_PATHS) and "/workers-ai/" not in path  # /v1/…/workers-ai/… is AI Gateway's


def error_reply_for(path: str, error: Exception, request_id: str) -> Response:
    """The answer to an exception in the dialect of the path."""
    if not speaks_openai(path):
        return error_reply(error, request_id)
    failure = describe(error)
    row = openai_error(failure)
    headers = {REQUEST_ID_HEADER: request_id, "x-request-id": request_id, **failure.headers}
    return json_reply(error_object(failure, error), row.status or failure.status, headers)


def error_object(failure: Failure, error: Exception) -> dict[str, object]:
    """{"error": {"message", "type", "param", "code"}}."""
    words = (str(error) if failure.code == BAD_INPUT else "") or failure.description
    return _object(words, openai_error(failure))


def failure_object(failure: Failure) -> tuple[int, dict[str, object]]:
    """(status, the same) where the exception itself is gone."""
    row = openai_error(failure)
    return row.status or failure.status, _object(failure.description.removeprefix("Error: "), row)


def openai_error(failure: Failure) -> OpenAIError:
    kind = "server_error" if failure.status >= 500 else "invalid_request_error"
    return BY_CODE.get(failure.code, OpenAIError(kind, None))


def edge_reply(path: str, status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error from before any route saw the request, in the dialect of the path."""
    if not speaks_openai(path):
        return edge_error(status, code, message, headers)
    row = BY_CODE[code]
    return json_reply(_object(message, row), row.status or status, headers)


def _object(message: str, row: OpenAIError) -> dict[str, object]:
    return {"error": {"message": message, "type": row.type, "param": row.param, "code": row.code}}
