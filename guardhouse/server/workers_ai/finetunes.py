"""Workers AI's finetune routes: create, list, public, upload an adapter's files; and, beyond it, read and delete one.

Knows: the wire's shapes, the multipart form of an upload.
Never knows: how adapters are kept, read and applied.

The reference service leaves open what happens to a second finetune of a name (refused here), which of id and name counts
first (the id), and what becomes of a broken file (refused when it is uploaded, naming what is wrong; nothing is kept).
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError, UnknownModel
from guardhouse.server.adapters.pool import AdapterPool
from guardhouse.server.adapters.store import ASSETS, Finetune
from guardhouse.server.context import decode_body
from guardhouse.server.errors import error_reply, reply_or_error
from guardhouse.server.forms import read_form
from guardhouse.server.openapi import Endpoint
from guardhouse.server.reply import success_reply
from guardhouse.server.service import ModelService
from guardhouse.server.transport import read_body
from guardhouse.server.workers_ai.catalogue import ACCOUNT, read_query

MAX_ASSET_BYTES = 500 * 10**6  # as the reference service's
TAG = "Finetunes"
PATH = f"{ACCOUNT}/finetunes"
ONE = f"{PATH}/{{finetune}}"
UPLOAD_SCHEMA = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary"}, "file_name": {"enum": list(ASSETS)}},
    "required": ["file", "file_name"],
}
LIST_SCHEMA = {"type": "array", "items": {"$ref": "#/components/schemas/Finetune"}}

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class FinetuneRequest(msgspec.Struct, frozen=True):
    """A finetune to be created."""

    model: str
    name: Name
    description: Annotated[str, Meta(max_length=10_000)] = ""
    public: bool = False


class PublicQuery(msgspec.Struct, frozen=True, rename={"order_by": "orderBy"}):
    """Which of the public finetunes."""

    limit: Annotated[int, Meta(ge=1)] = 50
    offset: Annotated[int, Meta(ge=0)] = 0
    order_by: Literal["created_at", "modified_at", "name", "id", "model"] = "created_at"


class FinetuneRoutes:
    """One per application."""

    def __init__(self, service: ModelService, pool: AdapterPool, timeout_s: float) -> None:
        self._service = service
        self._pool = pool
        self._store = pool.store
        self._timeout_s = timeout_s

    def endpoints(self) -> list[Endpoint]:
        routes: list[tuple[Literal["GET", "POST", "DELETE"], str, Handle, str, dict[str, object]]] = [
            ("POST", PATH, self.create, "Create a finetune, to upload an adapter to", {"body": FinetuneRequest}),
            ("GET", PATH, self.list_all, "All finetunes", {"result": LIST_SCHEMA}),
            ("GET", f"{PATH}/public", self.list_public, "Public ones", {"result": LIST_SCHEMA, "query": PublicQuery}),
            (
                "POST",
                f"{ONE}/finetune-assets",
                self.upload,
                "Upload one of the adapter's two files, in PEFT's format",
                {"body": UPLOAD_SCHEMA, "body_type": "multipart/form-data"},
            ),
            ("GET", ONE, self.retrieve, "One finetune, by id or name", {}),
            ("DELETE", ONE, self.delete, "Delete a finetune and its files", {}),
        ]
        return [
            Endpoint(
                method=method,
                path=path,
                aliases=(f"{path}/",),
                handler=partial(_answer, handle),
                summary=summary,
                tag=TAG,
                is_enveloped=True,
                **{"result": Finetune, **about},  # type: ignore[arg-type]  # each is a field of Endpoint
            )
            for method, path, handle, summary, about in routes
        ]

    async def create(self, request: Request) -> Finetune:
        wanted = decode_body(await read_body(request.receive, self._timeout_s), FinetuneRequest)
        if wanted.model not in self._names():
            raise UnknownModel(wanted.model)
        make = partial(self._store.create, wanted.model, wanted.name, wanted.description, public=wanted.public)
        return await asyncio.to_thread(make)

    async def list_all(self, _: Request) -> list[Finetune]:
        return await asyncio.to_thread(self._store.all)

    async def list_public(self, request: Request) -> list[Finetune]:
        query = read_query(request, PublicQuery)
        found = [one for one in await asyncio.to_thread(self._store.all) if one.public]
        found.sort(key=lambda one: str(getattr(one, query.order_by)))
        return found[query.offset : query.offset + query.limit]

    async def upload(self, request: Request) -> Finetune:
        """One file per call; which one `file_name` says, for clients send the file itself without a name."""
        guard = self._service.guard
        finetune = await self._find(request)
        async with read_form(request, MAX_ASSET_BYTES, "a 'file' and a 'file_name'") as form:
            file, name = form.get("file"), form.get("file_name")
            if not isinstance(file, UploadFile):
                raise InputError("the form holds no 'file'")
            if name not in ASSETS:
                raise InputError(f"'file_name' must be one of {', '.join(ASSETS)}")
            await asyncio.to_thread(self._store.add_asset, finetune, str(name), file.file, guard.check_adapter)
        return await self._find(request)

    async def retrieve(self, request: Request) -> Finetune:
        return await self._find(request)

    async def delete(self, request: Request) -> Finetune:
        finetune = await self._find(request)
        self._pool.forget(finetune)
        await asyncio.to_thread(self._store.delete, finetune)
        return finetune

    async def _find(self, request: Request) -> Finetune:
        return await asyncio.to_thread(self._store.find, request.path_params["finetune"])

    def _names(self) -> tuple[str, ...]:
        return self._service.names


Handle = Callable[[Request], Awaitable[object]]


async def _answer(handle: Handle, request: Request) -> Response:
    async def answered(request_id: str) -> Response:
        return success_reply(await handle(request), request_id)

    return await reply_or_error(answered, error_reply)
