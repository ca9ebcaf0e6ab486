"""What became of a batch, as OpenAI's batch and file objects and the lines of its output files.

Knows: stored jobs of kind openai-batch, and how their results are told.
Never knows: HTTP, how results come about.

Output files are not kept: they are written from the job's results whenever they are read, and go with them.
    file-<batch>-output   a line per request that succeeded
    file-<batch>-errors   a line per request that failed, or was given up
"""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Literal

import msgspec

from guardhouse.server.dialect import failure_object
from guardhouse.server.errors import Failure
from guardhouse.server.jobs.job import ItemResult, Job
from guardhouse.server.jobs.runner import FailedItem, JobRunner
from guardhouse.server.jobs.store import JobStore

KIND = "openai-batch"
PREFIX = "batch_"
PAGE = 500  # results read at a time
GIVEN_UP = {
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this request ran."},
    "expired": {"code": "batch_expired", "message": "The batch's time was over before this request ran."},
}
Output = Literal["output", "errors"]


class BatchDetails(msgspec.Struct, frozen=True):
    """What the submitter said; kept with the job."""

    input_file_id: str
    endpoint: str
    metadata: dict[str, str] | None
    custom_ids: list[str]


class BatchResults:
    """Reads the job store."""

    def __init__(self, jobs: JobRunner) -> None:
        self._jobs = jobs

    async def find(self, batch_id: str) -> Job | None:
        job_id = batch_id.removeprefix(PREFIX)
        job = await self._jobs.ask(lambda store: store.find(job_id)) if batch_id.startswith(PREFIX) else None
        return job if job is not None and job.kind == KIND else None

    async def output(self, file_id: str) -> dict[str, Any] | None:
        """The file object of an output; None if the id is none's."""
        found = await self._of_file(file_id)
        if found is None:
            return None
        job, output = found
        batch = batch_object(job)
        if file_id not in {batch["output_file_id"], batch["error_file_id"]}:
            return None
        num_bytes = 0
        async for line in self.lines(file_id):
            num_bytes += len(line)
        return {
            "id": file_id,
            "object": "file",
            "bytes": num_bytes,
            "created_at": batch["created_at"],
            "expires_at": None if job.expires_at is None else int(job.expires_at),
            "filename": f"{batch['id']}_{output}.jsonl",
            "purpose": "batch_output",
            "status": "processed",
        }

    async def lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """The lines of an output file, by position."""
        found = await self._of_file(file_id)
        if found is None:
            return
        job, output = found
        names = msgspec.json.decode(job.details, type=BatchDetails).custom_ids
        told = 0
        async for result in self._all(job):
            for position in range(told, result.position):
                if line := _unanswered(job, position, names[position], output):
                    yield line
            if result.is_success == (output == "output"):
                yield _line(job, names[result.position], result)
            told = result.position + 1
        for position in range(told, job.num_items):
            if line := _unanswered(job, position, names[position], output):
                yield line

    async def _all(self, job: Job) -> AsyncGenerator[ItemResult, None]:
        first, page = 0, None
        while page is None or len(page) == PAGE:
            page = await self._jobs.ask(partial(_read_page, job.id, first))
            for result in page:
                yield result
                first = result.position + 1

    async def _of_file(self, file_id: str) -> tuple[Job, Output] | None:
        outputs: tuple[Output, Output] = ("output", "errors")
        for output in outputs:
            if file_id.startswith("file-") and file_id.endswith(f"-{output}"):
                job = await self.find(file_id.removeprefix("file-").removesuffix(f"-{output}"))
                return None if job is None else (job, output)
        return None


def _read_page(job_id: str, first: int, store: JobStore) -> list[ItemResult]:
    return store.results(job_id, first, PAGE)


def batch_object(job: Job) -> dict[str, Any]:
    """OpenAI's batch."""
    details = msgspec.json.decode(job.details, type=BatchDetails)
    batch_id, is_over = f"{PREFIX}{job.id}", job.finished_at is not None
    ended = None if job.finished_at is None else int(job.finished_at)
    has_errors = job.num_failed > 0 or (is_over and job.num_done < job.num_items)
    return {
        "id": batch_id,
        "object": "batch",
        "endpoint": details.endpoint,
        "errors": None,
        "input_file_id": details.input_file_id,
        "completion_window": "24h",
        "status": job.state if is_over else "in_progress",
        "output_file_id": f"file-{batch_id}-output" if is_over and job.num_done > job.num_failed else None,
        "error_file_id": f"file-{batch_id}-errors" if is_over and has_errors else None,
        "created_at": int(job.created_at),
        "in_progress_at": int(job.started_at or job.created_at),
        "expires_at": None if job.deadline is None else int(job.deadline),
        "finalizing_at": ended if job.state == "completed" else None,
        "completed_at": ended if job.state == "completed" else None,
        "failed_at": None,
        "expired_at": ended if job.state == "expired" else None,
        "cancelling_at": ended if job.state == "cancelled" else None,
        "cancelled_at": ended if job.state == "cancelled" else None,
        "request_counts": {
            "total": job.num_items,
            "completed": job.num_done - job.num_failed,
            "failed": job.num_failed,
        },
        "metadata": details.metadata,
    }


def _line(job: Job, custom_id: str, result: ItemResult) -> bytes:
    request_id = f"batch_req_{job.id}_{result.position}"
    if result.is_success:
        status, body = 200, msgspec.Raw(result.result)
    else:
        failed = msgspec.json.decode(result.result, type=FailedItem)
        failure = Failure(failed.status, failed.code, failed.title, failed.description)
        status, error = failure_object(failure)
        body = msgspec.Raw(msgspec.json.encode(error))
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _encoded({"id": request_id, "custom_id": custom_id, "response": response, "error": None})


def _unanswered(job: Job, position: int, custom_id: str, output: Output) -> bytes | None:
    if output != "errors" or job.state not in GIVEN_UP:
        return None
    request_id = f"batch_req_{job.id}_{position}"
    return _encoded({"id": request_id, "custom_id": custom_id, "response": None, "error": GIVEN_UP[job.state]})


def _encoded(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"
