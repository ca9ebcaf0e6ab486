"""What a task can await, and be woken by with less ado than by asyncio's own futures and calls from other threads.

Knows: asyncio, threads, cancellation.
Never knows: what is waited for.

asyncio takes whatever has `_asyncio_future_blocking` for a future (asyncio/futures.py, isfuture): a task that awaits it
leaves its wake-up there. Each of these is awaited by one task at a time.
"""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextvars import Context
from functools import partial
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Wake = Callable[[Any], object]
ONE = (1).to_bytes(8, sys.byteorder)  # what is added to an eventfd


class Waitable:
    """What asyncio asks of all of them. `__await__` yields the object itself, marked as blocking, once."""

    _asyncio_future_blocking = False
    get_loop = staticmethod(asyncio.get_running_loop)

    def result(self) -> None:
        """Asked by the task before it goes on, in case it is to be an exception."""


class Doorbell:
    """Calls on the event loop what other threads ask for, as `call_soon_threadsafe` does, with less of the kernel.

    asyncio reads its own bell, a pair of sockets, twice for every ring; this is an eventfd, or a pipe, and read once for all
    rings that came meanwhile. Freed with the loop that it belongs to, or when its thread runs another.
    """

    _here = threading.local()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._heard, self._rung = (os.eventfd(0),) * 2 if hasattr(os, "eventfd") else os.pipe()
        loop.add_reader(self._heard, self._answer)

    @classmethod
    def of_running_loop(cls) -> "Doorbell":
        loop = asyncio.get_running_loop()
        found: Doorbell | None = getattr(cls._here, "doorbell", None)
        if found is None or found._loop is not loop:
            found = cls._here.doorbell = cls(loop)
        return found

    def ring(self, call: Callable[[], object]) -> None:
        """On any thread. After the loop's end nothing happens."""
        self._calls.append(call)
        if len(self._calls) == 1:  # otherwise somebody has rung, or is about to
            os.write(self._rung, ONE)

    def _answer(self) -> None:
        os.read(self._heard, 4096)
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            if self._calls:  # one failed: the others are called in the next turn, since nobody would ring for them
                os.write(self._rung, ONE)

    def __del__(self) -> None:
        for descriptor in {self._heard, self._rung}:
            os.close(descriptor)


class Arrival(Waitable, Generic[T]):
    """A thread's future. asyncio.wrap_future gives the same in two turns of the loop more."""

    def __init__(self, future: "Future[T]") -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        self._asyncio_future_blocking = True
        try:
            yield self
            return self._future.result(0)
        except CancelledError:
            raise asyncio.CancelledError from None
        finally:
            del self._future  # whose callback holds this: neither would go before the garbage collector came

    def add_done_callback(self, wake: Wake, *, context: Context) -> None:
        ring = Doorbell.of_running_loop().ring
        self._future.add_done_callback(lambda _: ring(partial(context.run, wake, self)))

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  (asyncio gives a reason)
        """By the task that waits, when somebody cancels it."""
        return self._future.cancel()


class Gate(Waitable):
    """A task waits here until somebody on the loop, in no task, opens the gate: it runs on at once, inside `open`.

    It may go on without that, so whoever waits looks again for what it waits for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake: Callable[[], object] | None = None
        self._is_cancelled = False

    def open(self) -> None:
        """Nothing happens where nobody waits."""
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def add_done_callback(self, wake: Wake, *, context: Context) -> None:
        self._wake = partial(context.run, wake, self)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002
        """By the task that waits, when somebody cancels it: that one may be running, or none may, so not at once."""
        self._is_cancelled = True
        self._loop.call_soon(self.open)
        return True

    def result(self) -> None:
        if self._is_cancelled:
            self._is_cancelled = False
            raise asyncio.CancelledError

    def __await__(self) -> Generator[Self, None, None]:
        self._asyncio_future_blocking = True
        yield self
