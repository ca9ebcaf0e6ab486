"""Endpoints: what is routed and what /openapi.json says are one declaration, so that neither can go stale.

Knows: how an endpoint becomes a route of Starlette's and an operation of OpenAPI 3.1; both error envelopes.
Never knows: what any endpoint does.

A route module offers `endpoints() -> list[Endpoint]`; app.py routes them and hands them to `document`. Shapes are msgspec
structs, or JSON Schemas where the wire's own schema is data (schema.py).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.routing import Route

from guardhouse.server.routing import Handler, HandlerRoute

JsonSchema = dict[str, Any]
Shape = type | JsonSchema | None  # a msgspec struct, a JSON Schema, or nothing

REF = "#/components/schemas/{name}"
PATH_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
BODY_ERRORS = {400: "The body, an id or the route is wrong", 401: "No key, or a wrong one", 405: "Wrong method"}
BODY_ERRORS |= {408: "Not answered in time", 413: "Body or text too large", 429: "Busy: see Retry-After"}
BODY_ERRORS |= {
    404: "No such account, model or URL",
    500: "The model failed",
    503: "The model is loading: see Retry-After",
}


class ErrorItem(msgspec.Struct):
    """One error."""

    code: int
    message: str


class ErrorEnvelope(msgspec.Struct):
    """Every refusal. `result` is {} where the model service refused, null where the gateway before it did."""

    success: Literal[False]
    errors: list[ErrorItem]
    messages: list[Any]
    result: dict[str, Any] | None


class OpenAIErrorItem(msgspec.Struct):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorBody(msgspec.Struct):
    """Every refusal of a route that OpenAI's clients and their relatives call."""

    error: OpenAIErrorItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation.

    >>> Endpoint(method="GET", path="/health", handler=health, summary="Whether it can answer", tag="Server", result={})
    ... # doctest: +SKIP
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str  # as Starlette writes it: "/ai/run/{model:path}"
    handler: Handler
    summary: str
    tag: str
    aliases: tuple[str, ...] = ()  # further paths, routed but not described again
    query: type[msgspec.Struct] | None = None  # its fields are the query's parameters
    headers: tuple[str, ...] = ()  # headers that the request must have
    body: Shape = None
    body_type: str = "application/json"
    result: Shape = None  # of a 200; with `is_enveloped`, what stands under "result"
    result_type: str = "application/json"
    is_enveloped: bool = False  # {"result": …, "success": true, "errors": [], "messages": []}
    is_streamed: bool = False  # may also answer with a stream
    stream_type: str = "text/event-stream"
    also: Mapping[int, Shape] = field(default_factory=dict)  # bodies of further statuses
    error: type = ErrorEnvelope  # or OpenAIErrorBody
    is_public: bool = False  # needs no key even where keys are set

    def routes(self) -> list[Route]:
        return [HandlerRoute(path, self.handler, self.method) for path in (self.path, *self.aliases)]


def document(endpoints: Iterable[Endpoint], version: str) -> JsonSchema:
    """The OpenAPI document of these endpoints."""
    endpoints = list(endpoints)
    structs: list[type] = [ErrorEnvelope]
    for endpoint in endpoints:
        shapes = (endpoint.body, endpoint.result, endpoint.error, *endpoint.also.values())
        structs += [shape for shape in shapes if isinstance(shape, type) and shape not in structs]
    _, components = msgspec.json.schema_components(structs, ref_template=REF)
    paths: dict[str, JsonSchema] = {}
    for endpoint in endpoints:
        path = PATH_PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Guardhouse",
            "version": version,
            "description": "Llama Guard on your own machine, behind the API its hosted version had.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(endpoint: Endpoint) -> JsonSchema:
    operation: JsonSchema = {
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "security": [] if endpoint.is_public else [{"key": []}, {}],  # {}: servers without keys let everyone in
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint),
    }
    if endpoint.aliases:
        operation["x-aliases"] = [PATH_PARAMETER.sub(r"{\1}", alias) for alias in endpoint.aliases]
    if endpoint.body is not None:
        content = {endpoint.body_type: {"schema": _schema(endpoint.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(endpoint: Endpoint) -> list[JsonSchema]:
    places = [(name, "path") for name in PATH_PARAMETER.findall(endpoint.path)]
    places += [(name, "header") for name in endpoint.headers]
    schema: JsonSchema = {"type": "string", "minLength": 1}
    parameters = [{"name": name, "in": place, "required": True, "schema": schema} for name, place in places]
    if endpoint.query is None:
        return parameters
    struct = msgspec.json.schema_components([endpoint.query], ref_template=REF)[1][endpoint.query.__name__]
    for name, schema in struct["properties"].items():
        parameter = {"name": name, "in": "query", "required": name in struct.get("required", ()), "schema": schema}
        parameters.append(parameter)
    return parameters


def _responses(endpoint: Endpoint) -> dict[str, JsonSchema]:
    content: JsonSchema = {endpoint.result_type: {"schema": _enveloped(endpoint)}}
    if endpoint.is_streamed:
        content[endpoint.stream_type] = {"schema": {"type": "string"}}
    responses = {"200": {"description": "Done", "content": content}}
    errors = {} if endpoint.is_public else BODY_ERRORS
    for status, text in errors.items():
        schema = _schema(endpoint.also.get(status, endpoint.error))
        responses[str(status)] = {"description": text, "content": {"application/json": {"schema": schema}}}
    for status, shape in endpoint.also.items():
        if str(status) not in responses:
            content = {"application/json": {"schema": _schema(shape)}}
            responses[str(status)] = {"description": "See the body", "content": content}
    return responses


def _enveloped(endpoint: Endpoint) -> JsonSchema:
    result = _schema(endpoint.result)
    if not endpoint.is_enveloped:
        return result
    empty = {"type": "array", "maxItems": 0}
    properties = {"result": result, "success": {"const": True}, "errors": empty, "messages": empty}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schema(shape: Shape) -> JsonSchema:
    if isinstance(shape, type):
        return {"$ref": REF.format(name=shape.__name__)}
    return {} if shape is None else shape
