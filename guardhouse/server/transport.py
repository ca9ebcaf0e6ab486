"""Bodies that are too large or too slow, and clients that go away.

Knows: ASGI messages.
Never knows: JSON, guards.
"""

import asyncio
import types
from collections.abc import AsyncGenerator, Awaitable, Generator
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from guardhouse.server.errors import BodyTimeout, BodyTooLarge
from guardhouse.server.sse import HEADERS

MAX_BODY = 10 * 1024 * 1024  # bytes
MAX_DRAIN = 64 * 1024 * 1024  # bytes

T = TypeVar("T")


@types.coroutine
def read_body(receive: Receive, timeout_s: float) -> Generator[Any, Any, bytes]:
    """The whole body, or BodyTooLarge, BodyTimeout or ClientDisconnect.

    Most bodies come with their heads: then there is nothing to wait for, and no timer.
    """
    reading = _read_body(receive)
    try:
        awaited = reading.send(None)
    except StopIteration as done:
        body: bytes = done.value
        return body
    caller, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert caller is not None
    timer = loop.call_later(timeout_s, caller.cancel)
    try:
        yield awaited
        return (yield from reading.__await__())
    except asyncio.CancelledError:
        if timer.when() <= loop.time() and caller.uncancel() == 0:
            raise BodyTimeout from None
        raise
    finally:
        timer.cancel()
        reading.close()


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    num_bytes, has_more = 0, True
    while has_more and num_bytes <= MAX_DRAIN:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, has_more = message.get("body", b""), message.get("more_body", False)
        num_bytes += len(chunk)
        if num_bytes <= MAX_BODY:
            chunks.append(chunk)
        else:  # read on without keeping it: a client in the midst of sending would never see an answer given now
            chunks.clear()
    if num_bytes > MAX_BODY:
        raise BodyTooLarge
    return b"".join(chunks)


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`; if the client goes away first, `work` is cancelled and ClientDisconnect raised.

    The work runs in the caller's own task, and the watch in none: two tasks and a wait for both would be a third of what
    HTTP costs.
    """
    watch = _Watch(receive)
    try:
        watch.look()
        return await work
    except asyncio.CancelledError:
        if watch.is_gone and watch.caller.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels the task that made it once the client has gone. What `receive` waits for, an asyncio future, calls it back."""

    def __init__(self, receive: Receive) -> None:
        caller = asyncio.current_task()
        assert caller is not None
        self.caller = caller
        self.is_gone = False
        self._receive = receive
        self._receiving: Any = receive()  # a coroutine; ASGI promises less
        self._has_ended = False

    def look(self, _: object = None) -> None:
        while not (self._has_ended or self.is_gone):
            try:
                self._receiving.send(None).add_done_callback(self.look)
                return
            except StopIteration as received:
                self.is_gone = received.value["type"] == "http.disconnect"
                self._receiving = self._receive()
        if self.is_gone:
            self.caller.cancel()

    def end(self) -> None:
        self._has_ended = True
        self._receiving.close()


class EventStream(Response):
    """A response of server-sent events that closes their source whatever becomes of the client."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(headers={**HEADERS, **headers})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send_all(send))
        except ClientDisconnect:
            return
        finally:
            await self._rest.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async for event in self._rest:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class LineStream(EventStream):
    """The same with lines of JSON, each sent as soon as it is known; the first may be long in coming."""

    def __init__(self, lines: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(b"", lines, {"content-type": "application/x-ndjson", **headers})
