"""What a task can await, and be woken by with fewer turns of the event loop than by asyncio's own futures.

Knows: asyncio, threads, cancellation.
Never knows: what is waited for.

asyncio takes whatever has `_asyncio_future_blocking` for a future (asyncio/futures.py, isfuture): a task that awaits it
leaves its wake-up there. Each of these is awaited by one task at a time.
"""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextvars import Context
from functools import partial
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Wake = Callable[[Any], object]


class Waitable:
    """What asyncio asks of all of them. `wait` lasts until the task's wake-up is called, and may last no time at all."""

    _asyncio_future_blocking = False
    get_loop = staticmethod(asyncio.get_running_loop)

    def wait(self) -> Generator[Self, None, None]:
        self._asyncio_future_blocking = True
        yield self

    def result(self) -> None:
        """Asked by the task before it goes on, in case it is to be an exception."""


class Arrival(Waitable, Generic[T]):
    """A thread's future. asyncio.wrap_future gives the same in two turns of the loop more."""

    def __init__(self, future: "Future[T]") -> None:
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        try:
            yield from self.wait()
            return self._future.result(0)
        except CancelledError:
            raise asyncio.CancelledError from None
        finally:
            del self._future  # whose callback holds this: neither would go before the garbage collector came

    def add_done_callback(self, wake: Wake, *, context: Context) -> None:
        loop = asyncio.get_running_loop()

        def arrive(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake, self, context=context)

        self._future.add_done_callback(arrive)

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
        return self.wait()
