"""Small ASGI applications, served over sockets that a test reads and writes byte by byte; or one exchange without a socket.

Knows: HTTP/1.1 as text, ASGI, how the server makes a connection.
Never knows: guards, what is tested.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from served import serving
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from guardhouse.server.exchange import Exchange

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LENGTH_2 = [(b"content-length", b"2")]


def application(answer: Callable[[Scope, Receive, Send], Any]) -> ASGIApp:
    """`answer` for requests; starting and stopping need nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await answer(scope, receive, send)

    return app


async def say(send: Send, *parts: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def say_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await say(send, b"ok", headers=LENGTH_2)


async def whole_body(receive: Receive) -> bytes:
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body, has_more = body + message.get("body", b""), message.get("more_body", False)
    return body


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def ask(answer: Callable[[Scope, Receive, Send], Any], request: bytes) -> bytes:
    """All that comes back until the server closes."""
    with serving(application(answer)) as url, connected(url) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            return answers.read()


class Recorder(asyncio.Transport):
    """The socket's side: what reaches it, write by write; and the connection of one exchange."""

    writable: asyncio.Event | None = None
    is_reading = True
    is_stopping = False
    has_waiting = False

    def __init__(self) -> None:
        super().__init__()
        self.transport = self
        self.server_state = ServerState()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def exchange_on(recorder: Recorder) -> Exchange:
    return Exchange(recorder, {"method": "GET", "http_version": "1.1"}, is_kept_alive=True, expects_continue=False)
