"""What a Worker's `env.AI` asks for: the run routes of the binding.

Knows: the protocol between workerd's wrapper and its inner fetcher, version 2 and 3.
Never knows: what safe means, how requests get here (unwrap.py).

Results are bare and errors flat: the wrapper hands the body on as it is. The model's name is in a header only.
Version 2 (before May 2024) reads errors as plain text; the older of its callers, who say so by
`content-encoding: application/json` on a body that is none, also expect results as gzip bytes without a header.
"""

import gzip
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.server.errors import DeprecatedSdk, MissingPart, binding_error_reply, describe, reply_or_error
from guardhouse.server.openapi import Endpoint
from guardhouse.server.reply import REQUEST_ID_HEADER, BindingError, json_reply
from guardhouse.server.transport import read_body
from guardhouse.server.validate import decode_json
from guardhouse.server.workers_ai.batch import QueuedJob
from guardhouse.server.workers_ai.inference import Call, Inference
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA, RunOutput

MODEL_HEADER = "cf-consn-model-id"
VERSIONS = ("2", "3")
BODY_SCHEMA = {
    "type": "object",
    "properties": {"inputs": RUN_INPUT_SCHEMA, "options": {"type": "object"}},
    "required": ["inputs"],
}


class BindingRoutes:
    """POST /run and /ai-gateway/run: {inputs, options} in, a bare result or events out."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def endpoints(self) -> list[Endpoint]:
        run = Endpoint(
            method="POST",
            path="/run",
            aliases=("/ai-gateway/run",),  # chosen by `options.gateway`; there is no gateway to pass through here
            handler=self.run,
            summary="What env.AI.run() of a Worker sends",
            tag="Workers binding",
            headers=(MODEL_HEADER,),
            body=BODY_SCHEMA,
            result=RunOutput,
            is_streamed=True,
            also={202: QueuedJob, **dict.fromkeys((400, 408, 413, 429, 500, 503), BindingError)},
        )
        return [run]

    async def run(self, request: Request) -> Response:
        version = request.query_params.get("version", VERSIONS[-1])
        to_error = text_error_reply if version == "2" else binding_error_reply
        return await reply_or_error(lambda request_id: self._run(request, request_id), to_error)

    async def _run(self, request: Request, request_id: str) -> Response:
        body = await read_body(request.receive, self._inference.timeout_s)
        version = request.query_params.get("version", VERSIONS[-1])
        if version not in VERSIONS:
            raise DeprecatedSdk
        inputs, options = read_inputs(request.query_params, body)
        call = Call(read_model(request), inputs, options, request_id, request.receive)
        result = await self._inference.run(call)
        if isinstance(result, Response):
            return result
        headers = {REQUEST_ID_HEADER: request_id}
        if version == "2" and request.headers.get("content-encoding") == "application/json":
            return gzip_reply(result, headers)
        return json_reply(result, 202 if isinstance(result, QueuedJob) else 200, headers)


def read_model(request: Request) -> str:
    """`[<prefix>:]<model>` -> model."""
    name = request.headers.get(MODEL_HEADER, "")
    if not name:
        raise MissingPart(MODEL_HEADER)
    return name.rpartition(":")[2]


def read_inputs(query: Mapping[str, str], body: bytes) -> tuple[object, Mapping[str, object]]:
    """(inputs, options), not validated yet.

    Where an input was a stream, the wrapper sends that stream as the body and all else in the query. No input of this
    model is one, so the stream is ignored, as any unknown key.
    """
    if "userInputs" in query:
        return decode_json(query["userInputs"].encode()), query
    if not body:
        raise MissingPart("body")
    envelope: Any = decode_json(body)
    if not isinstance(envelope, dict) or "inputs" not in envelope:
        raise MissingPart("inputs")
    options = envelope.get("options")
    return envelope["inputs"], options if isinstance(options, dict) else {}


def gzip_reply(result: object, headers: Mapping[str, str]) -> Response:
    """JSON as gzip bytes; the header that would say so is left out, for the caller unpacks them itself."""
    body = gzip.compress(msgspec.json.encode(result), compresslevel=1)
    return Response(body, headers={"content-type": "application/json", **headers})


def text_error_reply(error: Exception, request_id: str) -> Response:
    """An error as version 2 reads it."""
    failure = describe(error)
    headers = {"content-type": "text/plain", REQUEST_ID_HEADER: request_id, **failure.headers}
    return Response(f"{failure.code}: {failure.description}", failure.status, headers)
