"""The catalogue: which models, tasks and authors there are, and the schemas of a model.

Knows: the catalogue routes of the REST API and of the binding, their filters and paging.
Never knows: how a model runs.

Clients differ in how they page. The official SDKs ask for one page after another until one is empty and never look at the
total; wrangler asks for pages of 50 until one is shorter. So `page` and `per_page` are honoured, and pages past the end
are empty.

A model is listed once under each name that it answers to. Nothing here is deprecated: a `planned_deprecation_date` in
the past would make clients hide what this server serves.
"""

import uuid
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError, UnknownModel
from guardhouse.guard.guard import GuardInfo
from guardhouse.server.errors import error_reply, reply_or_error
from guardhouse.server.openapi import Endpoint
from guardhouse.server.reply import success_reply
from guardhouse.server.service import ModelService
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA, RunOutput

ACCOUNT = "/client/v4/accounts/{account}/ai"
KNOWN_IDS = {"@hf/thebloke/llamaguard-7b-awq": "d9b7a55c-cefa-4208-8ab3-11497a2b046c"}  # as its page published it
SOURCE_CF, SOURCE_HF = 1, 2  # `@cf/…` models, and all others
ABILITIES = {"function_calling": "true", "async_queue": "true", "lora": "true"}
TAG = "Catalogue"

PositiveInt = Annotated[int, Meta(ge=1)]
T = TypeVar("T")


class Task(msgspec.Struct, frozen=True):
    """What kind of model it is."""

    id: str
    name: str
    description: str


TEXT_GENERATION = Task(
    "c329a1f9-323d-4e91-b2aa-582dd4188d34", "Text Generation", "Models that write text, a guard's verdict included"
)


class Property(msgspec.Struct, frozen=True):
    """A fact about a model; values are strings on the wire, whatever they say."""

    property_id: str
    value: str


class Model(msgspec.Struct, frozen=True):
    """One row of the catalogue."""

    id: str
    source: int
    name: str
    description: str
    task: Task
    tags: list[str]
    properties: list[Property]

    @property
    def author(self) -> str:
        return self.name.split("/")[-2] if "/" in self.name else "guardhouse"

    @property
    def is_experimental(self) -> bool:
        return any(fact.property_id == "beta" for fact in self.properties)


class Author(msgspec.Struct, frozen=True):
    """Who published a model."""

    name: str


class ModelQuery(msgspec.Struct, frozen=True):
    """Filters of models/search; text is compared without case."""

    search: str = ""  # in name or description
    task: str = ""  # its whole name
    author: str = ""
    source: int | None = None
    hide_experimental: bool = False
    include_deprecated: bool = False  # nothing is
    page: PositiveInt = 1
    per_page: PositiveInt = 50

    def fits(self, model: Model) -> bool:
        text = f"{model.name}\n{model.description}".lower()
        return (
            self.search.lower() in text
            and self.task.lower() in ("", model.task.name.lower())
            and self.author.lower() in ("", model.author.lower())
            and self.source in (None, model.source)
            and not (self.hide_experimental and model.is_experimental)
        )


class PageInfo(msgspec.Struct, frozen=True):
    """Where a page stands in the whole."""

    count: int
    page: int
    per_page: int
    total_count: int


class SchemaQuery(msgspec.Struct, frozen=True):
    """Which model's schemas."""

    model: str


class Schemas(msgspec.Struct, frozen=True):
    """JSON Schemas of a model's input and output."""

    input: dict[str, Any]
    output: dict[str, Any]


class CatalogueRoutes:
    """GET routes that only read."""

    def __init__(self, service: ModelService) -> None:
        self._service = service

    def endpoints(self) -> list[Endpoint]:
        search = Endpoint(
            method="GET",
            path=f"{ACCOUNT}/models/search",
            aliases=("/ai-api/models/search",),  # what env.AI.models() asks for
            handler=self.models,
            summary="Models that are served",
            tag=TAG,
            query=ModelQuery,
            result={"type": "array", "items": _inline(Model)},
            is_enveloped=True,
        )
        schema = Endpoint(
            method="GET",
            path=f"{ACCOUNT}/models/schema",
            handler=self.schema,
            summary="JSON Schemas of a model's input and output",
            tag=TAG,
            query=SchemaQuery,
            result=Schemas,
            is_enveloped=True,
        )
        lists = [
            Endpoint(
                method="GET",
                path=f"{ACCOUNT}/{name}/search",
                handler=handler,
                summary=summary,
                tag=TAG,
                result={"type": "array", "items": _inline(row)},
                is_enveloped=True,
            )
            for name, handler, summary, row in (
                ("tasks", self.tasks, "Tasks of the models that are served", Task),
                ("authors", self.authors, "Authors of the models that are served", Author),
            )
        ]
        return [search, schema, *lists]

    async def models(self, request: Request) -> Response:
        async def found(request_id: str) -> Response:
            query = read_query(request, ModelQuery)
            if "format" in request.query_params:
                raise InputError("'/format' is not supported: this server lists models in the default format only")
            rows = [model for model in self._all() if query.fits(model)]
            start = (query.page - 1) * query.per_page
            page = rows[start : start + query.per_page]
            return success_reply(page, request_id, PageInfo(len(page), query.page, query.per_page, len(rows)))

        return await reply_or_error(found, error_reply)

    async def schema(self, request: Request) -> Response:
        async def found(request_id: str) -> Response:
            name = read_query(request, SchemaQuery).model
            if name not in self._service.names:
                raise UnknownModel(name)
            return success_reply(Schemas(RUN_INPUT_SCHEMA, output_schema()), request_id)

        return await reply_or_error(found, error_reply)

    async def tasks(self, _: Request) -> Response:
        async def found(request_id: str) -> Response:
            return success_reply(_distinct(model.task for model in self._all()), request_id)

        return await reply_or_error(found, error_reply)

    async def authors(self, _: Request) -> Response:
        async def found(request_id: str) -> Response:
            return success_reply(_distinct(Author(model.author) for model in self._all()), request_id)

        return await reply_or_error(found, error_reply)

    def _all(self) -> list[Model]:
        return [describe_model(name, self._service.guard.info) for name in self._service.names]


def describe_model(name: str, info: GuardInfo) -> Model:
    """The row of the catalogue for one of a guard's names. It says what really answers."""
    what = "the small embedded guard of Guardhouse" if info.is_embedded else info.name
    facts = {"context_window": str(info.window), **ABILITIES, **({"beta": "true"} if info.is_embedded else {})}
    return Model(
        id=KNOWN_IDS.get(name) or str(uuid.uuid5(uuid.NAMESPACE_URL, f"guardhouse:{name}")),
        source=SOURCE_CF if name.startswith("@cf/") else SOURCE_HF,
        name=name,
        description=f"Judges whether prompts and responses of language models are safe. Answered by {what}.",
        task=TEXT_GENERATION,
        tags=[],
        properties=[Property(key, value) for key, value in facts.items()],
    )


def output_schema() -> dict[str, Any]:
    """Either one JSON object or, where a stream was asked for, events."""
    result = {**_inline(RunOutput), "contentType": "application/json"}
    return {"oneOf": [result, {"type": "string", "contentType": "text/event-stream", "format": "binary"}]}


def read_query(request: Request, struct: type[T]) -> T:
    """The query's parameters as this struct, or InputError; unknown ones are ignored."""
    try:
        return msgspec.convert(dict(request.query_params), struct, strict=False)
    except msgspec.ValidationError as error:  # names types, bounds and the parameter, never what was sent
        reason, _, where = str(error).partition(" - at `$.")
        raise InputError(f"query parameter {where.rstrip('`')}: {reason}" if where else reason) from None


def _distinct(rows: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(rows))


def _inline(struct: type) -> dict[str, Any]:
    """The struct's JSON Schema without references: every nested struct in its place."""
    (schema,), parts = msgspec.json.schema_components([struct], ref_template="{name}")

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            return resolved(parts[node["$ref"]]) if "$ref" in node else {k: resolved(v) for k, v in node.items()}
        return [resolved(item) for item in node] if isinstance(node, list) else node

    return dict(resolved(schema))
