"""The run route of Workers AI's REST API.

Knows: its paths, envelope and event stream.
Never knows: what safe means, how tokens are made.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from guardhouse.config import Settings
from guardhouse.errors import UnknownModel
from guardhouse.guard.guard import Guard
from guardhouse.server import sse
from guardhouse.server.answer import Answer, answer
from guardhouse.server.errors import LoraUnsupported, describe, error_reply
from guardhouse.server.metrics import Metrics
from guardhouse.server.openapi import Endpoint
from guardhouse.server.reply import REQUEST_ID_HEADER, success_reply
from guardhouse.server.schema import RUN_INPUT_SCHEMA, RunInput, RunOutput
from guardhouse.server.service import ModelService
from guardhouse.server.transport import EventStream, read_body, while_connected
from guardhouse.server.validate import decode_json, validate

PATHS = ("/client/v4/accounts/{account}/ai/run/{model:path}", "/client/v4/ai/run/{model:path}")
CLIENT_CLOSED_REQUEST = 499  # nobody is there to read it: for the log and the metrics only


class RunRoute:
    """POST …/ai/run/{model}: body in, verdict out."""

    def __init__(self, service: ModelService, settings: Settings, metrics: Metrics) -> None:
        self._service = service
        self._timeout_s = settings.request_timeout_s
        self._metrics = metrics

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
        )
        return [run]

    async def run(self, request: Request) -> Response:
        """Whatever happens, the answer carries a request id, and an error's message repeats it."""
        request_id = str(uuid.uuid4())
        try:
            return await self._run(request, request_id)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:  # the table has a row for everything; an unforeseen one is a logged 500
            return error_reply(error, request_id)

    async def _run(self, request: Request, request_id: str) -> Response:
        body = await read_body(request, self._timeout_s)
        guard = self._service.guard
        model = request.path_params["model"].strip("/")
        if model not in self._service.names:
            raise UnknownModel(model)
        run = parse_input(body)
        if run.lora:
            raise LoraUnsupported(model)
        if not run.stream:
            found = await while_connected(request.receive, answer(guard, run, self._timeout_s, _ignore))
            self._count(found)
            return success_reply(found.output, request_id)
        events = self._events(guard, run, request_id)
        first = await while_connected(
            request.receive, anext(events)
        )  # errors up to here still get a status of their own
        return EventStream(first, events, {REQUEST_ID_HEADER: request_id})

    async def _events(self, guard: Guard, run: RunInput, request_id: str) -> AsyncGenerator[bytes, None]:
        """Text events as the answer grows, then usage and [DONE]. After an error neither: a client must see the cut."""
        loop, trimmer = asyncio.get_running_loop(), sse.Trimmer()
        deltas: asyncio.Queue[str | None] = asyncio.Queue()
        task = asyncio.ensure_future(answer(guard, run, self._timeout_s, lambda delta: _hand_over(loop, deltas, delta)))
        task.add_done_callback(lambda _: _hand_over(loop, deltas, None))  # through the loop too: it must come last
        has_begun = False
        try:
            while (delta := await deltas.get()) is not None:
                if text := trimmer.feed(delta):
                    has_begun = True
                    yield sse.text_event(text)
            found = await task
            self._count(found)
            yield sse.event({"response": "", **_tail(found)})
            yield sse.DONE
        except Exception as error:
            if not has_begun:
                raise
            failure = describe(error)
            yield sse.event({"errors": [{"message": failure.message(request_id), "code": failure.code}]})
        finally:
            task.cancel()

    def _count(self, found: Answer) -> None:
        if found.verdict is not None:
            self._metrics.observe_verdict(found.verdict.flagged)


def parse_input(body: bytes) -> RunInput:
    """JSON text, whatever the content type said -> RunInput, or InputError in the reference wording."""
    payload = decode_json(body)
    fields = validate(RUN_INPUT_SCHEMA, payload)
    if isinstance(payload, dict) and "temperature" not in payload:
        del fields["temperature"]  # the published default is not applied (answer.py says why)
    return msgspec.convert(fields, RunInput, strict=False)


def _tail(found: Answer) -> dict[str, object]:
    tail: dict[str, object] = {"usage": found.output.usage}
    if found.output.verdict is not None:
        tail["verdict"] = found.output.verdict
    return tail


def _hand_over(loop: asyncio.AbstractEventLoop, deltas: "asyncio.Queue[str | None]", delta: str | None) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(deltas.put_nowait, delta)


def _ignore(delta: str) -> None:
    """For callers who wait for the whole answer."""
