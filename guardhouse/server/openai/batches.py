"""/v1/batches: many requests in one file, answered in the background, as OpenAI's SDKs ask for them.

Knows: the input file's lines, OpenAI's batch object, which endpoints a batch may use.
Never knows: how jobs are kept and run (jobs/runner.py).

The whole file is read when the batch is made: a line that is no request, or a `custom_id` that comes twice, refuses it at
once and by number. (OpenAI answers first and fails the batch later.) From then on the batch needs the file no more, and
survives a restart. Requests are deleted as they are answered.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError
from guardhouse.server.context import Context, Handlers, convert, decode_body
from guardhouse.server.errors import UnknownJob
from guardhouse.server.jobs.job import NewItem
from guardhouse.server.jobs.runner import JobRunner
from guardhouse.server.openai.batch_results import KIND, PREFIX, BatchDetails, BatchResults, batch_object
from guardhouse.server.openai.chat import ChatRequest, complete_chat
from guardhouse.server.openai.completions import CompletionRequest, complete_text
from guardhouse.server.openai.file_store import FileStore
from guardhouse.server.openai.files import UnknownFile
from guardhouse.server.openai.moderations import ModerationRequest, moderate
from guardhouse.server.openai.paging import page, read_limit
from guardhouse.server.validate import decode_json
from guardhouse.server.workers_ai.inference import STORED_TIMEOUT_S

MAX_REQUESTS = 50_000  # as OpenAI's
MAX_LINE = 10 * 1024 * 1024  # bytes
DEADLINE_S = 24 * 3600.0  # the one completion window there is
Answer = Callable[[Context, Any], Awaitable[Any]]
# What a batch may ask, by the endpoint that it names: the body's struct, and what answers it.
ENDPOINTS: Mapping[str, tuple[type[msgspec.Struct], Answer]] = {
    "/v1/moderations": (ModerationRequest, moderate),
    "/v1/chat/completions": (ChatRequest, complete_chat),
    "/v1/completions": (CompletionRequest, complete_text),
}


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the input file."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class StoredRequest(msgspec.Struct, frozen=True):
    """A job item's request, as JSON."""

    endpoint: str
    body: dict[str, Any]


class Batches:
    """The routes' handlers, and what runs a batch's requests."""

    def __init__(self, jobs: JobRunner, files: FileStore, results: BatchResults) -> None:
        self._jobs = jobs
        self._files = files
        self._results = results

    async def create(self, context: Context, _: Request, body: bytes) -> Response:
        asked = decode_body(body, BatchRequest)
        if asked.endpoint not in ENDPOINTS:
            raise InputError(f"'endpoint' must be one of {', '.join(ENDPOINTS)}")
        if await asyncio.to_thread(self._files.find, asked.input_file_id) is None:
            raise UnknownFile("no such input file, or it has expired")
        names, items = await asyncio.to_thread(self._read, asked)
        details = BatchDetails(asked.input_file_id, asked.endpoint, asked.metadata, names)
        job = await self._jobs.submit(KIND, items, msgspec.json.encode(details), deadline_s=DEADLINE_S)
        return context.reply(batch_object(job))

    async def list_all(self, context: Context, request: Request, _: bytes) -> Response:
        limit, after = read_limit(request), request.query_params.get("after", "").removeprefix(PREFIX) or None
        jobs = await self._jobs.ask(lambda store: store.newest(KIND, limit + 1, after))
        return context.reply(page([batch_object(job) for job in jobs], limit))

    async def retrieve(self, context: Context, request: Request, _: bytes) -> Response:
        job = await self._results.find(request.path_params["batch"])
        if job is None:
            raise UnknownJob("no such batch, or its results have expired")
        return context.reply(batch_object(job))

    async def cancel(self, context: Context, request: Request, _: bytes) -> Response:
        """What is answered stays."""
        found = await self._results.find(request.path_params["batch"])
        job = None if found is None else await self._jobs.ask(lambda store: store.cancel(found.id))
        if job is None:
            raise UnknownJob("no such batch, or its results have expired")
        return context.reply(batch_object(job))

    def _read(self, asked: BatchRequest) -> tuple[list[str], list[NewItem]]:
        with self._files.open(asked.input_file_id) as file:
            return read_lines(file, asked.endpoint)


def read_lines(file: BinaryIO, endpoint: str) -> tuple[list[str], list[NewItem]]:
    """(custom ids, job items). Raises InputError, naming the line."""
    names: dict[str, None] = {}
    items: list[NewItem] = []
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if not line.strip():
            continue
        try:
            request = _read_line(line, endpoint)
            if request.custom_id in names:
                raise InputError("its custom_id was used before")
        except InputError as error:
            raise InputError(f"line {number} of the input file: {error}") from None
        names[request.custom_id] = None
        items.append(NewItem(msgspec.json.encode(StoredRequest(endpoint, request.body)), request.custom_id))
    if not 0 < len(items) <= MAX_REQUESTS:
        raise InputError(f"the input file must hold 1 to {MAX_REQUESTS} requests")
    return list(names), items


def _read_line(line: bytes, endpoint: str) -> BatchLine:
    if len(line) > MAX_LINE:
        raise InputError("it is too long")
    request = convert(decode_json(line), BatchLine)
    if request.url != endpoint:
        raise InputError(f"its url is not the batch's endpoint {endpoint}")
    return request


async def answer_stored(handlers: Handlers, request: bytes) -> bytes:
    """A stored request's reply as JSON. Raises what the endpoint's handler raises."""
    context = handlers.context(str(uuid.uuid4()), STORED_TIMEOUT_S)
    stored = msgspec.json.decode(request, type=StoredRequest)
    kind, answer = ENDPOINTS[stored.endpoint]
    return msgspec.json.encode(await answer(context, convert(stored.body, kind)))
