"""/v1/files: upload, list, read and delete what batches work on, as OpenAI's SDKs do.

Knows: multipart forms, OpenAI's file object; that a batch's outputs are files, too.
Never knows: what is in a file.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from guardhouse.errors import InputError
from guardhouse.server.context import Context
from guardhouse.server.errors import UnknownJob
from guardhouse.server.forms import read_form
from guardhouse.server.openai.batch_results import BatchResults
from guardhouse.server.openai.file_store import FileStore, StoredFile
from guardhouse.server.openai.paging import page, read_limit

MAX_FILE_BYTES = 200 * 1024 * 1024  # as OpenAI's for batches
PURPOSES = ("batch", "user_data", "evals")
MIN_LIFETIME_S, MAX_LIFETIME_S = 3600, 2592000  # of `expires_after`, as OpenAI has it
READ_BYTES = 1 << 20


class UnknownFile(UnknownJob):
    """No file of that id: it never was, was deleted, or has expired."""


class Files:
    """The routes' handlers."""

    def __init__(self, store: FileStore, results: BatchResults) -> None:
        self._store = store
        self._results = results

    async def upload(self, context: Context, request: Request, _: bytes) -> Response:
        """A form with `file` and `purpose`. The body is read here, for it may be larger than others."""
        async with read_form(request, MAX_FILE_BYTES, "a 'file' and a 'purpose'") as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise InputError("the form holds no 'file'")
            if purpose not in PURPOSES:
                raise InputError(f"'purpose' must be one of {', '.join(PURPOSES)}")
            lifetime_s = _lifetime_s(form.get("expires_after[seconds]"))
            name = file.filename or "upload"
            stored = await asyncio.to_thread(self._store.add, file.file, name, str(purpose), lifetime_s)
        return context.reply(file_object(stored))

    async def list_all(self, context: Context, request: Request, _: bytes) -> Response:
        files = await asyncio.to_thread(self._store.all)
        purpose = request.query_params.get("purpose")
        found = [file_object(one) for one in files if purpose in {None, one.purpose}]
        if request.query_params.get("order") == "asc":
            found.reverse()
        return context.reply(page(found, read_limit(request), request.query_params.get("after")))

    async def retrieve(self, context: Context, request: Request, _: bytes) -> Response:
        file_id = request.path_params["file"]
        if output := await self._results.output(file_id):
            return context.reply(output)
        return context.reply(file_object(await self._stored(file_id)))

    async def content(self, context: Context, request: Request, _: bytes) -> Response:
        file_id = request.path_params["file"]
        if await self._results.output(file_id):
            lines = self._results.lines(file_id)
            return StreamingResponse(lines, media_type="application/jsonl", headers=context.headers)
        await self._stored(file_id)
        try:
            file = await asyncio.to_thread(self._store.open, file_id)
        except FileNotFoundError:
            raise UnknownFile("no such file") from None
        return StreamingResponse(_pieces(file), media_type="application/octet-stream", headers=context.headers)

    async def delete(self, context: Context, request: Request, _: bytes) -> Response:
        file_id = request.path_params["file"]
        if await self._results.output(file_id):
            raise InputError("a batch's output goes when the batch's results expire")
        if not await asyncio.to_thread(self._store.delete, file_id):
            raise UnknownFile("no such file, or it has expired")
        return context.reply({"id": file_id, "object": "file", "deleted": True})

    async def _stored(self, file_id: str) -> StoredFile:
        stored = await asyncio.to_thread(self._store.find, file_id)
        if stored is None:
            raise UnknownFile("no such file, or it has expired")
        return stored


def file_object(stored: StoredFile) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.num_bytes,
        "created_at": int(stored.created_at),
        "expires_at": int(stored.expires_at),
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
    }


def _lifetime_s(given: object) -> float | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given.isdigit() or not MIN_LIFETIME_S <= int(given) <= MAX_LIFETIME_S:
        raise InputError(f"'expires_after' must be {MIN_LIFETIME_S} to {MAX_LIFETIME_S} seconds")
    return float(given)


async def _pieces(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    try:
        while piece := await asyncio.to_thread(file.read, READ_BYTES):
            yield piece
    finally:
        file.close()
