"""Starlette's router without the layers that Starlette puts around it and around every handler.

Knows: how a path finds its handler, and what is answered where it finds none.
Never knows: what any handler does.

Those layers turn exceptions into answers. Here a handler's own errors have become answers before they could get so far
(errors.py), and what nobody foresaw is uvicorn's to log and answer: 500, without a word about it.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from guardhouse.server.dialect import edge_reply

Handler = Callable[[Request], Awaitable[Response]]


class HandlerRoute(Route):
    """One path and method, and the handler that answers."""

    def __init__(self, path: str, handler: Handler, method: str) -> None:
        super().__init__(path, handler, methods=[method])
        self._handler = handler

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = self.methods or ()
        if scope["method"] in allowed:
            response = await self._handler(Request(scope, receive, send))
        else:
            words = f"{scope['method']} not supported for requested URI."
            response = edge_reply(scope["path"], 405, 7001, words, {"Allow": ", ".join(allowed)})
        await response(scope, receive, send)


class Application(Starlette):
    """Routes, behind the layers that the caller names and no others."""

    def build_middleware_stack(self) -> ASGIApp:
        self.router.redirect_slashes = False
        self.router.default = unknown_route
        app: ASGIApp = self.router.app
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app


async def unknown_route(scope: Scope, receive: Receive, send: Send) -> None:
    await edge_reply(scope["path"], 400, 7000, "No route for that URI")(scope, receive, send)
