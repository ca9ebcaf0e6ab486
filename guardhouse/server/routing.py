"""Starlette's routes and lifespan without the layers that Starlette puts around both and around every handler.

Knows: how a path finds its handler, and what is answered where it finds none.
Never knows: what any handler does.

Those layers turn exceptions into answers. Here a handler's own errors have become answers before they could get so far
(errors.py), and what nobody foresaw exchange.py logs and answers: 500, without a word about it.
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
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


class Paths:
    """Sends each request to the first route that has its path and method."""

    def __init__(self, router: Router) -> None:
        self._router = router  # for what is no request
        self._routes = [route for route in router.routes if isinstance(route, HandlerRoute)]
        self._by_method: dict[str, list[HandlerRoute]] = {}
        for route in self._routes:
            for method in route.methods or ():
                self._by_method.setdefault(method, []).append(route)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._router.app(scope, receive, send)
        path = scope["path"]
        for routes in (self._by_method.get(scope["method"], ()), self._routes):
            for route in routes:
                if (match := route.path_regex.match(path)) is not None:
                    scope["route"], scope["path_params"] = route, match.groupdict()
                    return route.handle(scope, receive, send)
        return edge_reply(path, 400, 7000, "No route for that URI")(scope, receive, send)


class Application(Starlette):
    """Routes, behind the layers that the caller names and no others."""

    def build_middleware_stack(self) -> ASGIApp:
        """What `__call__` awaits. A server may call it instead, and save a coroutine."""
        app: ASGIApp = Paths(self.router)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app
