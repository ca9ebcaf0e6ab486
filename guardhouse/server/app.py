"""The ASGI application: routes, and what surrounds every one of them.

Knows: order of the layers (log and metrics, keys, routes), health, edge errors.
Never knows: bodies, texts.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from guardhouse.config import Settings
from guardhouse.engine.engine import EngineStats
from guardhouse.server.adapters.pool import AdapterPool
from guardhouse.server.adapters.store import FinetuneStore
from guardhouse.server.auth import KeyRing, presented_key, refuse_open_server
from guardhouse.server.context import Handlers
from guardhouse.server.dialect import edge_reply
from guardhouse.server.errors import printable
from guardhouse.server.info import installed_version
from guardhouse.server.jobs.runner import JobRunner
from guardhouse.server.jobs.store import JobStore
from guardhouse.server.metrics import Metrics
from guardhouse.server.openai import batch_results
from guardhouse.server.openai.batches import answer_stored
from guardhouse.server.openai.file_store import FileStore
from guardhouse.server.openapi import Endpoint, JsonSchema, document
from guardhouse.server.playground import ASSET_PREFIX, PAGE_PATHS, Playground
from guardhouse.server.reply import REQUEST_ID_HEADER, json_reply
from guardhouse.server.routes import call_endpoints
from guardhouse.server.routing import Application
from guardhouse.server.service import GuardLoader, ModelService
from guardhouse.server.workers_ai import batch
from guardhouse.server.workers_ai.binding import BindingRoutes
from guardhouse.server.workers_ai.catalogue import CatalogueRoutes
from guardhouse.server.workers_ai.finetunes import FinetuneRoutes
from guardhouse.server.workers_ai.inference import Inference
from guardhouse.server.workers_ai.run import RunRoute
from guardhouse.server.workers_ai.unwrap import Unwrap

JOBS_FILE, FILES_FOLDER, FINETUNES_FOLDER = "jobs.sqlite3", "files", "finetunes"  # in the data folder
PUBLIC_PATHS = frozenset({"/health", *PAGE_PATHS})  # what asks people for a key must open without one
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEALTH_SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"status": {"enum": ["loading", "ok", "failing", "failed"]}},
    "required": ["status"],
}
ACCOUNTS = "/client/v4/accounts/"
ACCOUNT = re.compile(r"[A-Za-z0-9._~-]{1,64}(/|$)")  # the hosted service's are 32 hex digits
MAX_FAILED_STEPS = 3  # of the engine, in a row: one may be a bad request's fault, three are the machine's


def create_app(load_guard: GuardLoader, settings: Settings) -> Starlette:
    """Build the application; `load_guard` is called once, on a thread of its own, when the application starts.

    >>> app = create_app(lambda progress: Guard.load("embedded", progress=progress), Settings())  # doctest: +SKIP
    """
    return build_app(ModelService(load_guard, settings), settings)


def build_app(service: ModelService, settings: Settings, when_settled: Callable[[], None] | None = None) -> Starlette:
    """The same around a service that the caller keeps an eye on; `when_settled` is told when loading has ended."""
    keys = KeyRing.from_settings(settings)
    refuse_open_server(settings, keys)
    metrics = Metrics(lambda: _engine_stats(service))
    jobs = JobRunner(partial(open_job_store, settings), settings.data_dir / JOBS_FILE)
    adapters = AdapterPool(FinetuneStore(settings.data_dir / FINETUNES_FOLDER), settings.max_loras)
    inference = Inference(service, settings, metrics, jobs, adapters)
    handlers = Handlers(service, settings, metrics, adapters)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start(when_settled)
        await jobs.start({batch.KIND: inference.run_stored, batch_results.KIND: partial(answer_stored, handlers)})
        yield
        await jobs.close()
        service.close()

    endpoints = [  # tried in this order
        *RunRoute(inference).endpoints(),
        *own_endpoints(service, metrics),
        *CatalogueRoutes(service).endpoints(),
        *FinetuneRoutes(service, adapters, settings.request_timeout_s).endpoints(),
        *BindingRoutes(inference).endpoints(),
        *call_endpoints(handlers, jobs, open_file_store(settings)),
    ]
    endpoints.append(openapi_endpoint(endpoints))
    return Application(
        routes=[*(route for endpoint in endpoints for route in endpoint.routes()), *Playground.load().routes()],
        middleware=[
            Middleware(Unwrap),
            Middleware(AccessLog, metrics=metrics),
            *([Middleware(KeyCheck, keys=keys)] if len(keys) else []),
            Middleware(AccountCheck),
        ],
        lifespan=lifespan,
    )


def open_file_store(settings: Settings) -> FileStore:
    return FileStore(settings.data_dir / FILES_FOLDER, settings.job_retention_s, settings.job_queue_mib << 20)


def open_job_store(settings: Settings, path: Path) -> JobStore:
    return JobStore(path, settings.job_retention_s, settings.job_queue_mib << 20)


def own_endpoints(service: ModelService, metrics: Metrics) -> list[Endpoint]:
    """What operators ask: is it well, and what did it do."""

    async def health(_: Request) -> Response:
        return health_reply(service)

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"content-type": METRICS_TYPE})

    return [
        Endpoint(
            method="GET",
            path="/health",
            handler=health,
            summary="Whether the server can answer, and with which model",
            tag="Server",
            result=HEALTH_SCHEMA,
            also={503: HEALTH_SCHEMA},
            is_public=True,
        ),
        Endpoint(
            method="GET",
            path="/metrics",
            handler=exposition,
            summary="Counters and gauges for Prometheus",
            tag="Server",
            result={"type": "string"},
            result_type=METRICS_TYPE,
        ),
    ]


def openapi_endpoint(others: list[Endpoint]) -> Endpoint:
    """The description of all endpoints, itself included; put together when first asked for."""

    @cache
    def described() -> Response:
        return json_reply(document([*others, endpoint], installed_version()))

    async def openapi(_: Request) -> Response:
        return described()

    endpoint = Endpoint(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        summary="This description, as OpenAPI 3.1",
        tag="Server",
        result={"type": "object"},
    )
    return endpoint


def health_reply(service: ModelService) -> Response:
    """200 while the guard can answer; 503 before it has loaded, if it could not be, or if the engine is unwell."""
    if service.status != "ready":
        state = {"status": service.status, "progress": round(service.progress, 3), "error": service.failure}
        return json_reply(state, 503, {"retry-after": "2"})
    if service.guard.engine_stats().num_failed_steps_in_a_row >= MAX_FAILED_STEPS:
        return json_reply({"status": "failing", "error": "the engine's last steps failed"}, 503)
    info = service.guard.info
    return json_reply(
        {
            "status": "ok",
            "model": info.name,
            "embedded": info.is_embedded,
            "aliases": service.names[1:],
            "policy": info.policy_name,
            "device": info.device,
            "window": info.window,
            "uptime_s": round(service.uptime_s, 3),
            "version": installed_version(),
        }
    )


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(ASSET_PREFIX)


class KeyCheck:
    """Lets nobody pass without a key, where keys are set; /health stays open for load balancers, the page for people."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or is_public(scope["path"]):
            return self._app(scope, receive, send)
        try:
            key = presented_key(Headers(scope=scope))
        except ValueError:
            return edge_reply(scope["path"], 400, 6003, "Invalid request headers")(scope, receive, send)
        if key is None or not self._keys.accepts(key):
            return edge_reply(scope["path"], 401, 10000, "Authentication error")(scope, receive, send)
        return self._app(scope, receive, send)


class AccountCheck:
    """Turns away what cannot be an account's identifier. Any other name will do: there is one account here, yours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(ACCOUNTS) and not ACCOUNT.match(path, len(ACCOUNTS)):
            words = f"Could not route to {printable(path)}, perhaps your object identifier is invalid?"
            return edge_reply(path, 404, 7003, words)(scope, receive, send)
        return self._app(scope, receive, send)


class AccessLog:
    """One log line and one observation per request: route, status, time, request id; no path, no text."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._logger = logging.getLogger("guardhouse.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started_at = time.monotonic()
        status, headers = 500, []

        def watched_send(message: Message) -> Awaitable[None]:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
            return send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            seconds = time.monotonic() - started_at
            route = getattr(scope.get("route"), "path", "none")  # the pattern, never the path that was asked for
            self._metrics.observe_request(route, status, seconds)
            if self._logger.isEnabledFor(logging.INFO):
                request_id = dict(headers).get(REQUEST_ID_HEADER.encode(), b"-").decode()
                self._logger.info("%s %s %d %.1f ms %s", scope["method"], route, status, 1000 * seconds, request_id)


def _engine_stats(service: ModelService) -> EngineStats | None:
    return service.guard.engine_stats() if service.status == "ready" else None
