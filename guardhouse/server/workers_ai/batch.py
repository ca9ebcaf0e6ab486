"""Workers AI's asynchronous batches: submit many inputs, ask later for their results.

Knows: the wire's shapes for submitting and polling.
Never knows: how jobs are kept and run (jobs/runner.py), how an input is answered.

    POST …/ai/run/{model}?queueRequest=true  {"requests": [{…, "external_reference"?}, …]}
        202  {"status": "queued", "request_id": "…", "model": "…"}
    POST …/ai/run/{model}?queueRequest=true  {"request_id": "…"}
        202  {"status": "queued" | "running", "request_id": "…", "model": "…"}
        200  {"responses": [{"id": 0, "result": {…}, "success": true, "external_reference": …}, …], "usage": {…}}

The reference service's behaviour is unconfirmed in four points; here they are: a job that is not done is answered 202
(its documentation says that the *final* status is 200); every input is checked when it is submitted, and a bad one
refuses the whole; responses come ordered by `id`; an item's `result` holds the answer directly, as most of its samples
have it, and once more under `result`, as those for text models do.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from guardhouse.errors import InputError
from guardhouse.server.errors import UnknownJob
from guardhouse.server.jobs.job import ItemResult, NewItem
from guardhouse.server.jobs.runner import FailedItem, JobRunner
from guardhouse.server.workers_ai.schema import Usage

KIND = "workers-ai-run"
MAX_REQUESTS = 50_000  # of one batch
NOT_QUEUED = (
    "oneOf at '/' not met, 0 matches: required properties at '/' are 'requests', "
    "required properties at '/' are 'request_id'"
)


class StoredInput(msgspec.Struct, frozen=True):
    """A job item's request, as JSON."""

    model: str
    inputs: dict[str, Any]


class QueuedJob(msgspec.Struct, frozen=True):
    """A job that is not done."""

    status: Literal["queued", "running"]
    request_id: str
    model: str


class BatchResponse(msgspec.Struct, frozen=True):
    """One input's outcome. `id` is its place in `requests`; of a failure, `result` is empty and `errors` says why."""

    id: int
    result: dict[str, Any]
    success: bool
    external_reference: str | None
    errors: list[dict[str, Any]] = []


class BatchResult(msgspec.Struct, frozen=True):
    """A job that is done."""

    responses: list[BatchResponse]
    usage: Usage


def is_queued(inputs: object, options: Mapping[str, object]) -> bool:
    """True for what belongs here: a submission (by its option), or a poll (which the binding sends without one)."""
    if options and str(options.get("queueRequest", "")).lower() in {"true", "1"}:
        return True
    return isinstance(inputs, dict) and "request_id" in inputs and not inputs.keys() & {"prompt", "messages"}


async def submit_or_poll(
    jobs: JobRunner, model: str, inputs: object, check: Callable[[object], object]
) -> QueuedJob | BatchResult:
    """`check` raises InputError for an input that could not be answered. Raises UnknownJob, InputError or QueueFull."""
    if isinstance(inputs, dict) and isinstance(inputs.get("requests"), list):
        items = await asyncio.to_thread(_items, model, inputs["requests"], check)  # there may be very many
        job = await jobs.submit(KIND, items, model.encode())
        return QueuedJob("queued", job.id, model)
    if isinstance(inputs, dict) and isinstance(inputs.get("request_id"), str):
        return await _poll(jobs, inputs["request_id"])
    raise InputError(NOT_QUEUED)


async def _poll(jobs: JobRunner, request_id: str) -> QueuedJob | BatchResult:
    job = await jobs.ask(lambda store: store.find(request_id))
    if job is None or job.kind != KIND:
        raise UnknownJob
    if job.finished_at is None:
        return QueuedJob("queued" if job.state == "queued" else "running", job.id, job.details.decode())
    results = await jobs.ask(lambda store: store.results(request_id))
    if len(results) < job.num_done:  # they expired while they were read
        raise UnknownJob
    return await asyncio.to_thread(_finished, results)


def _items(model: str, requests: list[Any], check: Callable[[object], object]) -> list[NewItem]:
    if not 1 <= len(requests) <= MAX_REQUESTS:
        raise InputError(f"'/requests' must hold 1 to {MAX_REQUESTS} inputs")
    items = []
    for index, request in enumerate(requests):
        inputs = request if isinstance(request, dict) else {}
        reference = inputs.get("external_reference")
        try:
            if reference is not None and not isinstance(reference, str):
                raise InputError("Type mismatch of '/external_reference', 'string' expected")
            check(inputs)
        except InputError as error:
            raise InputError(f"'/requests/{index}': {error}") from error
        stored = {name: value for name, value in inputs.items() if name != "external_reference"}
        items.append(NewItem(msgspec.json.encode(StoredInput(model, stored)), reference))
    return items


def _finished(results: list[ItemResult]) -> BatchResult:
    responses, usage = [], [0, 0, 0]
    for found in results:
        if found.is_success:
            output: dict[str, Any] = msgspec.json.decode(found.result)
            tokens = msgspec.convert(output["usage"], Usage)
            usage = [total + more for total, more in zip(usage, msgspec.structs.astuple(tokens), strict=True)]
            nested = {"response": output["response"], "usage": tokens}
            result = {**output, "result": nested}
            responses.append(BatchResponse(found.position, result, True, found.reference))
        else:
            failure = msgspec.json.decode(found.result, type=FailedItem)
            error = {"message": failure.message, "code": failure.code}
            responses.append(BatchResponse(found.position, {}, False, found.reference, [error]))
    return BatchResult(responses, Usage(*usage))
