"""JSON answers and the envelopes they travel in.

Knows: the v4 envelope, its two error dialects, headers.
Never knows: which exception became which error (errors.py), what a result means.
"""

import os
from collections.abc import Mapping
from uuid import UUID

import msgspec
from starlette.responses import Response

REQUEST_ID_HEADER = "cf-ai-req-id"
IDS_AT_ONCE = 64
CONTENT_TYPE = (b"content-type", b"application/json")  # with a charset, the Workers binding would hand out a stream


class BindingError(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An error as a Worker's binding reads it: the `description` alone has neither title nor request id."""

    name: str = "AiError"
    internal_code: int
    http_code: int
    message: str
    description: str
    request_id: str


def json_reply(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Content type exactly `application/json`: with a charset, the Workers binding would hand out a stream instead."""
    return JsonResponse(msgspec.json.encode(payload), status, headers)


class JsonResponse(Response):
    """A response whose headers are known; Starlette's own looks for each whether somebody has set it."""

    def __init__(self, body: bytes, status: int, headers: Mapping[str, str] | None) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = [CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
        if headers is not None:
            for name, value in headers.items():
                self.raw_headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))


_spare_ids: list[str] = []


def new_request_id() -> str:
    """A random UUID, as `str(uuid.uuid4())`. They are made many at a time: each alone would take a system call."""
    try:
        return _spare_ids.pop()
    except IndexError:
        _spare_ids.extend(str(UUID(bytes=os.urandom(16), version=4)) for _ in range(IDS_AT_ONCE))
        return _spare_ids.pop()


def success_reply(result: object, request_id: str, result_info: object = None, status: int = 200) -> Response:
    """The envelope of an answer from the model service; `result_info` is where a page stands in the whole."""
    envelope = {"result": result, "success": True, "errors": [], "messages": []}
    if result_info is not None:
        envelope["result_info"] = result_info
    return JsonResponse(msgspec.json.encode(envelope), status, {REQUEST_ID_HEADER: request_id})


def service_error(status: int, code: int, message: str, headers: Mapping[str, str]) -> Response:
    """An error of the model service: `result` is an empty object and `message` precedes `code`."""
    envelope = {"errors": [{"message": message, "code": code}], "success": False, "result": {}, "messages": []}
    return json_reply(envelope, status, headers)


def edge_error(status: int, code: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error of the gateway before the service (routing, keys): `result` is null, there is no request id."""
    error: dict[str, object] = {"code": code, "message": message}
    if code == 6003:
        error["error_chain"] = [{"code": 6111, "message": "Invalid format for Authorization header"}]
    return json_reply({"result": None, "success": False, "errors": [error], "messages": []}, status, headers)
