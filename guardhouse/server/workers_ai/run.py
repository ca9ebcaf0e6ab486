"""The run route of Workers AI's REST API.

Knows: its paths and envelope.
Never knows: what safe means, how tokens are made, what an event stream holds.
"""

from collections.abc import Awaitable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from guardhouse.server.errors import error_reply, reply_or_error
from guardhouse.server.openapi import Endpoint
from guardhouse.server.reply import success_reply
from guardhouse.server.transport import read_body
from guardhouse.server.validate import decode_json
from guardhouse.server.workers_ai.batch import QueuedJob
from guardhouse.server.workers_ai.inference import Call, Inference
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA, RunOutput

PATHS = (
    "/client/v4/accounts/{account}/ai/run/{model:path}",
    "/client/v4/ai/run/{model:path}",  # callers without an account exist
    "/v1/{account}/{gateway}/workers-ai/run/{model:path}",  # AI Gateway's address of the same; the last as documented,
    "/v1/{account}/{gateway}/workers-ai/{model:path}",  # the one before it as workers-ai-provider asks
)


class RunRoute:
    """POST …/ai/run/{model}: body in, verdict out."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def endpoints(self) -> list[Endpoint]:
        path, *aliases = PATHS
        run = Endpoint(
            method="POST",
            path=path,
            aliases=tuple(aliases),
            handler=self.run,
            summary="Judge a text, or let the model write",
            tag="Workers AI",
            body=RUN_INPUT_SCHEMA,
            result=RunOutput,
            is_enveloped=True,
            is_streamed=True,
            also={202: QueuedJob},
        )
        return [run]

    def run(self, request: Request) -> Awaitable[Response]:
        """Whatever happens, the answer carries a request id, and an error's message repeats it."""
        return reply_or_error(partial(self._run, request), error_reply)

    async def _run(self, request: Request, request_id: str) -> Response:
        receive = request.receive
        body = await read_body(receive, self._inference.timeout_s)
        model = request.path_params["model"].strip("/")
        options = request.query_params if request.scope["query_string"] else {}
        call = Call(model, decode_json(body), options, request_id, receive)
        result = await self._inference.run(call)
        if isinstance(result, Response):
            return result
        return success_reply(result, request_id, status=202 if isinstance(result, QueuedJob) else 200)
