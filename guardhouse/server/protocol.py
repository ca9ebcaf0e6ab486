"""HTTP/1.1 on a connection: one task, which answers the requests in the order in which they came.

Knows: httptools' callbacks, asyncio's transports, what uvicorn's server asks of a protocol.
Never knows: ASGI's messages (exchange.py), routes, what bodies hold.

uvicorn runs the server: sockets, signals, start and stop. Its own protocol makes a task for every request, which the event
loop starts a turn later, and an event and a timer. Here a connection's task runs on as soon as a request's bytes are parsed,
and an idle connection's timer is set anew only when it has rung.
"""

import asyncio
import time
from collections import deque
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.server import ServerState

from guardhouse.server.exchange import Exchange
from guardhouse.server.waking import Gate

MAX_UNREAD = 65536  # bytes of a body that wait for the application before the connection is read no further
MAX_HEAD = 65536  # bytes of a request's head after those that came in one piece with its first
ASGI = {"version": "3.0", "spec_version": "2.3"}


def _refusal(status: bytes, why: bytes) -> bytes:
    head = (
        b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
    )
    return head % (status, len(why), why)


BAD_REQUEST = _refusal(b"400 Bad Request", b"Invalid HTTP request received.")
HEAD_TOO_LARGE = _refusal(b"431 Request Header Fields Too Large", b"The request's head is too large.")


class HttpProtocol(asyncio.Protocol):
    """One connection. Invariant: `_waiting` holds the requests that were parsed and not begun, oldest first."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._idle_timeout_s = config.timeout_keep_alive
        self.server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # What follows a request that closes the connection is not for us to answer, but no reason to leave that one out.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._waiting: deque[Exchange] = deque()
        self._parsed: Exchange | None = None  # whose body arrives
        self._current: Exchange | None = None  # which the task is answering
        self._num_head: int | None = None  # bytes of the head that arrives; None between heads
        self._gate = Gate()  # where the task waits for requests
        self.is_stopping = False  # no request after those that are here
        self._is_lost = False
        self.is_reading = True
        self.writable: asyncio.Event | None = None  # there while the transport holds as much as it should
        self._idle_since: float | None = None
        self._idle_timer: asyncio.TimerHandle | None = None

    # asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._server = _address(transport, "sockname")
        self._client = _address(transport, "peername")
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self._task = self._loop.create_task(self._answer_all())
        self.server_state.tasks.add(self._task)  # waited for when the server stops, and cancelled in the end
        self._task.add_done_callback(self.server_state.tasks.discard)

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        if self._num_head is not None:
            self._num_head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to a protocol that is not spoken here: the request was answered as it stands
        except httptools.HttpParserError:
            self._refuse(BAD_REQUEST)
            return
        if self._num_head is not None and self._num_head > MAX_HEAD:
            self._refuse(HEAD_TOO_LARGE)
            return
        if self._waiting and self._current is None:
            self._gate.open()
        if self._waiting:
            self._pause_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self._is_lost = True
        self.server_state.connections.discard(self)
        for exchange in (self._current, self._parsed):
            if exchange is not None:
                exchange.disconnect()
        self._parsed = None
        del self._parser  # which holds this
        self.resume_writing()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._loop.call_soon(self._gate.open)

    def pause_writing(self) -> None:
        self.writable = asyncio.Event()

    def resume_writing(self) -> None:
        if self.writable is not None:
            self.writable.set()
            self.writable = None

    # uvicorn's server calls

    def shutdown(self) -> None:
        """Close once the requests that are here are answered."""
        self.is_stopping = True
        if self._current is None and not self._waiting:
            self.transport.close()

    # httptools calls

    def on_message_begin(self) -> None:
        self._num_head = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._num_head = None
        parser = self._parser
        raw_path, query = _split(self._url)
        path = raw_path.decode("ascii")
        version = parser.get_http_version()
        scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }
        self._headers = []  # what a chunked body has behind it is none of the request's headers: it may come after an answer
        is_kept_alive = version != "1.0" and parser.should_keep_alive()
        self._parsed = Exchange(self, scope, is_kept_alive=is_kept_alive, expects_continue=self._expects_continue)
        self._waiting.append(self._parsed)

    def on_body(self, body: bytes) -> None:
        if self._parsed is not None and self._parsed.add_body(body) > MAX_UNREAD:
            self._pause_reading()

    def on_message_complete(self) -> None:
        if self._parsed is not None:
            self._parsed.end_body()

    # An exchange calls

    @property
    def has_waiting(self) -> bool:
        """There are requests to come after the one that is being answered."""
        return bool(self._waiting)

    def resume_reading(self) -> None:
        self.is_reading = True
        self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if self.is_reading:
            self.is_reading = False
            self.transport.pause_reading()

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    # The connection's task

    async def _answer_all(self) -> None:
        try:
            while not self._is_lost:
                if self._waiting and not self.transport.is_closing():
                    await self._answer(self._waiting.popleft())
                else:
                    await self._gate
        finally:
            self.transport.close()

    async def _answer(self, exchange: Exchange) -> None:
        self._current = exchange
        try:
            await exchange.answer(self._app)
        finally:
            self._current = None
        self.server_state.total_requests += 1
        if self._waiting:
            await asyncio.sleep(0)  # others first: a client may send thousands at once
            return
        if not self.is_reading:
            self.resume_reading()
        if self.is_stopping:
            self.transport.close()
        self._idle_since = time.monotonic()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._idle_timeout_s, self._check_idle)

    def _check_idle(self) -> None:
        """Close what has been idle for long enough. The timer is not set anew for every request, but when it has rung."""
        self._idle_timer = None
        if self._idle_since is None:
            return
        left_s = self._idle_since + self._idle_timeout_s - time.monotonic()
        if left_s > 0:
            self._idle_timer = self._loop.call_later(left_s, self._check_idle)
        else:
            self.transport.close()


def _split(url: bytes) -> tuple[bytes, bytes]:
    """A request's target -> path and query. Few are more than that: a whole URL, or one with a fragment."""
    if url.startswith(b"/") and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    parsed = httptools.parse_url(url)
    return parsed.path, parsed.query or b""


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int] | None:
    found = transport.get_extra_info(which)
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
