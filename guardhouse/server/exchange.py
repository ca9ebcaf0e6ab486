"""One request and its answer, between an application's ASGI messages and the bytes of HTTP/1.1.

Knows: ASGI's messages, how a head and a body are framed, what may be written when.
Never knows: how requests are parsed (protocol.py), routes, what bodies hold.

An answer's last part leaves with all that was held back for it: a plain answer is one packet. Parts before the last wait for
the end of the loop's turn, so that those of one turn leave together.
"""

import asyncio
import logging
import traceback
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope
from uvicorn.server import ServerState

MAX_HELD = 65536  # bytes; above, joining would copy more than it saves, and the transport must see that it is full
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PHRASES = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES = {status: f"HTTP/1.1 {status} {PHRASES.get(status, '')}\r\n".encode() for status in range(200, 600)}
WITHOUT_BODY = frozenset((204, 304))
ALLOWED_IN_HEADERS = bytes(byte for byte in range(256) if byte == ord("\t") or (byte >= ord(" ") and byte != 127))
INTERNAL_ERROR = b"Internal Server Error"
INTERNAL_ERROR_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(INTERNAL_ERROR))]

logger = logging.getLogger("guardhouse.server")


class Connection(Protocol):
    """The part of protocol.HttpProtocol that an exchange uses."""

    transport: asyncio.Transport
    writable: asyncio.Event | None  # there while the client reads too slowly
    is_reading: bool
    is_stopping: bool
    server_state: ServerState

    @property
    def has_waiting(self) -> bool: ...

    def resume_reading(self) -> None: ...


class Exchange:
    """One request and its answer. The connection tells what arrives, the application calls `receive` and `send`."""

    __slots__ = (
        "_body",
        "_change",
        "_connection",
        "_expects_continue",
        "_has_begun",
        "_has_more",
        "_held",
        "_is_bodiless",
        "_is_chunked",
        "_is_flush_due",
        "_is_lost",
        "_is_read",
        "_num_held",
        "_num_left",
        "_transport",
        "is_kept_alive",
        "is_over",
        "scope",
    )

    def __init__(self, connection: Connection, scope: Scope, *, is_kept_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.is_kept_alive = is_kept_alive  # the connection outlives this answer
        self.is_over = False  # answered, or nobody is there any more
        self._connection = connection
        self._transport = connection.transport
        self._expects_continue = expects_continue
        self._change: asyncio.Future[None] | None = None  # there while somebody waits in `receive`
        self._body = b""  # what arrived and was not received yet
        self._has_more = True  # of the body
        self._is_read = False
        self._is_lost = False
        self._has_begun = False  # to answer
        self._is_bodiless = False
        self._is_chunked = False
        self._num_left: int | None = None  # bytes of the answer's body, where its length is known
        self._held: list[bytes] = []
        self._num_held = 0  # bytes
        self._is_flush_due = False

    # The connection tells

    def add_body(self, body: bytes) -> int:
        """The number of bytes that the application has not received yet."""
        if self.is_over:
            return 0
        self._body += body
        if self._change is not None:
            self._notify()
        return len(self._body)

    def end_body(self) -> None:
        self._has_more = False
        if self._change is not None:
            self._notify()

    def disconnect(self) -> None:
        self._is_lost = self.is_over = True
        self._notify()

    async def answer(self, app: ASGIApp) -> None:
        """Run the application. What it fails to do becomes a logged 500, or a connection that is cut."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # without its message: that may quote what somebody wrote
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("unforeseen %s\n%s", type(error).__name__, frames)
        else:
            if not self.is_over:
                logger.error("the application left an answer unfinished")
        if self._has_begun and not self.is_over:
            self._transport.close()
        elif not self.is_over:
            self.is_kept_alive = False
            self._begin(500, INTERNAL_ERROR_HEADERS)
            self._add(INTERNAL_ERROR, has_more=False)

    # The application calls

    async def receive(self) -> Message:
        if self._expects_continue:
            self._expects_continue = False
            self._transport.write(CONTINUE)
        while not self.is_over:
            if self._body or not (self._has_more or self._is_read):
                body, self._body = self._body, b""
                self._is_read = not self._has_more
                return {"type": "http.request", "body": body, "more_body": self._has_more}
            if self._change is not None:
                raise RuntimeError("somebody receives already")
            if not self._connection.is_reading:
                self._connection.resume_reading()
            self._change = asyncio.Future()
            try:
                await self._change
            finally:
                self._change = None
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if (writable := self._connection.writable) is not None:
            await writable.wait()
        if self._is_lost:
            return
        kind = message["type"]
        if kind == "http.response.body" and self._has_begun and not self.is_over:
            self._add(message.get("body", b""), has_more=message.get("more_body", False))
        elif kind == "http.response.start" and not self._has_begun:
            self._begin(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{kind} out of turn")

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Hold the head back for the body. How the body is framed, and whether the connection lasts, is decided here."""
        lines = [STATUS_LINES[status]]
        for name, value in (*self._connection.server_state.default_headers, *headers):
            key = name.lower()
            if key == b"connection":
                self.is_kept_alive = self.is_kept_alive and b"close" not in value.lower()
            elif key != b"transfer-encoding":
                lines.append(b"%b: %b\r\n" % (key, value))
            if key == b"content-length":
                self._num_left = int(value)
        if self._connection.is_stopping and not self._connection.has_waiting:
            self.is_kept_alive = False
        if not self.is_kept_alive:
            lines.append(b"connection: close\r\n")
        self._is_bodiless = self.scope["method"] == "HEAD" or status in WITHOUT_BODY
        if self._num_left is None and not self._is_bodiless and self.scope["http_version"] != "1.0":
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.translate(None, ALLOWED_IN_HEADERS) != b"\r\n" * len(lines):
            raise RuntimeError("a header holds a line break or another control character")
        self._has_begun = True
        self._held += (head, b"\r\n")

    def _add(self, body: bytes, *, has_more: bool) -> None:
        if self._is_bodiless:
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if has_more else LAST_CHUNK)
        elif self._num_left is not None:
            self._num_left -= len(body)
            if self._num_left < 0 or (self._num_left and not has_more):
                raise RuntimeError("the body is not as long as its content-length says")
        self._held.append(body)
        self._num_held += len(body)
        if not has_more:
            self._end()
        elif self._num_held > MAX_HELD:
            self._flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _end(self) -> None:
        self.is_over = True
        self._flush()
        if not self.is_kept_alive:
            self._transport.close()
        if self._change is not None:
            self._notify()

    def _flush(self) -> None:
        held, self._held, self._num_held = self._held, [], 0
        self._is_flush_due = False
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def _notify(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
