"""Run the application on a socket until it is told to stop.

Knows: addresses, uvicorn, the start banner.
Never knows: routes.
"""

import gc
import logging
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from guardhouse.config import Settings
from guardhouse.errors import ConfigError, GuardhouseError
from guardhouse.guard.guard import GuardInfo
from guardhouse.server.app import build_app
from guardhouse.server.info import installed_version
from guardhouse.server.protocol import HttpProtocol
from guardhouse.server.routing import Application
from guardhouse.server.service import GuardLoader, ModelService

GRACE_S = 10  # seconds that running requests get when the server is told to stop


class ModelLoadError(GuardhouseError):
    """The server stopped because its model could not be loaded."""


def serve(load_guard: GuardLoader, settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Raises at once if the settings are unsafe, later if the model fails to load."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of every WebSocket that miniflare tries to open
    service = ModelService(load_guard, settings)

    def settled() -> None:
        if service.failure is None:
            settle_memory()
            announce(banner(service.guard.info, service.names, address, needs_key=needs_key))
        else:
            server.should_exit = True

    app = build_app(service, settings, settled)
    listener = listen(settings.host, settings.port)
    address = address_of(listener)
    needs_key = bool(settings.api_keys or settings.api_key_file)
    server = uvicorn.Server(uvicorn_config(app))
    announce(f"Guardhouse {installed_version()} listens on {address}; loading {settings.model}")
    server.run(sockets=[listener])
    if service.failure is not None:
        raise ModelLoadError(service.failure)


def settle_memory() -> None:
    """What is there now stays: have the garbage collector look through it no more.

    Each time it did would take 38 ms, in which no thread runs. The higher threshold takes 19 µs off every request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """One worker, our own log lines; nothing here asks who a proxy says the client is."""
    return uvicorn.Config(
        app.build_middleware_stack() if isinstance(app, Application) else app,
        interface="asgi3",
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or a ConfigError that says why not.

    Accepted connections inherit TCP_NODELAY. Without it the second packet of every answer on a kept-alive connection waits
    40 ms for the client's delayed acknowledgement; asyncio sets it only on sockets that name their protocol.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def banner(info: GuardInfo, names: tuple[str, ...], address: str, *, needs_key: bool) -> str:
    """What runs really, where, and what to try next."""
    question = "How do I bake bread?"
    url = f"{address}/client/v4/accounts/local/ai/run/{names[-1]}"
    curl_key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    python_key = ', headers={"Authorization": f"Bearer {key}"}' if needs_key else ""
    kind = "the small embedded guard, not Llama Guard 7B" if info.is_embedded else str(info.path)
    return f"""
  model     {info.name} ({kind})
  answers   {", ".join(names)}
  policy    {info.policy_name}, window {info.window} tokens, device {info.device}
  address   {address}  (the playground; /health, /metrics)
  keys      {"required" if needs_key else "none"}

  curl {url}{curl_key} -d '{{"prompt": "{question}"}}'
  python -c 'import requests; print(requests.post("{url}", json={{"prompt": "{question}"}}{python_key}).json())'
"""
