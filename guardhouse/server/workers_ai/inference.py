"""One question to its result, whichever route brought it.

Knows: model names, the run schema, plain results and event streams, what to count.
Never knows: paths, envelopes, the shapes of errors.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from functools import partial

import msgspec
from starlette.types import Receive

from guardhouse.config import Settings
from guardhouse.guard.guard import Guard
from guardhouse.server import sse
from guardhouse.server.adapters.pool import AdapterPool
from guardhouse.server.errors import describe
from guardhouse.server.jobs.runner import JobRunner
from guardhouse.server.metrics import Metrics
from guardhouse.server.reply import REQUEST_ID_HEADER
from guardhouse.server.service import ModelService
from guardhouse.server.transport import EventStream, while_connected
from guardhouse.server.validate import Shortcut, validate
from guardhouse.server.workers_ai.answer import answer
from guardhouse.server.workers_ai.batch import StoredInput, is_queued, submit_or_poll
from guardhouse.server.workers_ai.question import Answer, Delta
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA, RunInput

SHORTCUT = Shortcut(RUN_INPUT_SCHEMA)
STORED_TIMEOUT_S = 3600.0  # nobody waits for a stored input at the other end of a line


class Call(msgspec.Struct, frozen=True):
    """What a route found in a request."""

    model: str
    inputs: object  # decoded JSON, not validated yet
    options: Mapping[str, object]  # the REST API's query, or the binding's third argument: queueRequest and the like
    request_id: str
    receive: Receive  # tells when the client goes away


class Inference:
    """Runs questions on the one guard of this server."""

    def __init__(
        self, service: ModelService, settings: Settings, metrics: Metrics, jobs: JobRunner, adapters: AdapterPool
    ) -> None:
        self._service = service
        self._adapters = adapters
        self._jobs = jobs
        self.timeout_s = settings.request_timeout_s
        self._keep_alive_s = settings.keep_alive_s
        self._metrics = metrics

    async def run(self, call: Call) -> object:
        """The bare result, ready for JSON, or an EventStream. Every error up to a stream's first event is raised."""
        guard = self._service.guard_named(call.model)
        if is_queued(call.inputs, call.options):
            return await submit_or_poll(self._jobs, call.model, call.inputs, parse_input)
        run = parse_input(call.inputs)
        if run.lora:
            guard = await self._adapted(guard, call.model, run.lora)
        if not run.stream:
            found = await while_connected(call.receive, answer(guard, run, self.timeout_s, _ignore))
            self._count(found)
            return found.output
        events = sse.kept_alive(self._events(guard, run), self._keep_alive_s, partial(error_event, call.request_id))
        first = await while_connected(call.receive, anext(events))
        return EventStream(first, events, {REQUEST_ID_HEADER: call.request_id})

    async def run_stored(self, request: bytes) -> bytes:
        """A stored job's item (jobs.StoredInput as JSON) to its RunOutput as JSON."""
        stored = msgspec.json.decode(request, type=StoredInput)
        run = parse_input(stored.inputs)
        guard = self._service.guard_named(stored.model)
        if run.lora:
            guard = await self._adapted(guard, stored.model, run.lora)
        found = await answer(guard, run, STORED_TIMEOUT_S, _ignore)
        self._count(found)
        return msgspec.json.encode(found.output)

    async def _adapted(self, guard: Guard, model: str, lora: str) -> Guard:
        """The guard under the adapter that the input names."""
        return await self._adapters.adapted(guard, model, self._service.names, lora)

    async def _events(self, guard: Guard, run: RunInput) -> AsyncGenerator[bytes, None]:
        """Events as the answer grows, then usage and [DONE]."""
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[Delta | None] = asyncio.Queue()
        task = asyncio.ensure_future(answer(guard, run, self.timeout_s, lambda delta: _hand_over(loop, deltas, delta)))
        task.add_done_callback(lambda _: _hand_over(loop, deltas, None))  # through the loop too: it must come last
        has_tools, has_called = bool(run.offered_tools), False
        try:
            while (delta := await deltas.get()) is not None:
                has_called = has_called or bool(delta.tool_calls)
                yield sse.delta_event(delta.text, delta.tool_calls if has_tools else None)
            found = await task
            self._count(found)
            if has_called:
                yield sse.event({"response": "", "finish_reason": "tool_calls"})
            yield sse.event({"response": "", **_tail(found, has_called=has_called)})
            yield sse.DONE
        finally:
            task.cancel()

    def _count(self, found: Answer) -> None:
        if found.verdict is not None:
            self._metrics.observe_verdict(found.verdict.flagged)


def parse_input(payload: object) -> RunInput:
    """Decoded JSON -> RunInput, or InputError in the reference wording."""
    if SHORTCUT.knows(payload):
        return msgspec.convert(payload, RunInput)
    fields = validate(RUN_INPUT_SCHEMA, payload)
    if isinstance(payload, dict) and "temperature" not in payload:
        del fields["temperature"]  # the published default is not applied (answer.py says why)
    if "raw" in fields:
        fields["raw"] = fields["raw"] is True
    return msgspec.convert(fields, RunInput, strict=False)


def error_event(request_id: str, error: Exception) -> bytes:
    """What ends a stream that cannot go on. No [DONE] follows: a client must see the cut."""
    failure = describe(error)
    return sse.event({"errors": [{"message": failure.message(request_id), "code": failure.code}]})


def _tail(found: Answer, *, has_called: bool) -> dict[str, object]:
    tail: dict[str, object] = {"usage": found.output.usage}
    if found.output.tool_calls is not None and not has_called:  # streamed calls are not told twice
        tail["tool_calls"] = []
    if found.output.verdict is not None:
        tail["verdict"] = found.output.verdict
    return tail


def _hand_over(loop: asyncio.AbstractEventLoop, deltas: "asyncio.Queue[Delta | None]", delta: Delta | None) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(deltas.put_nowait, delta)


def _ignore(delta: Delta) -> None:
    """For callers who wait for the whole answer."""
