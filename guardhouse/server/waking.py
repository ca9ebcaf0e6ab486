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
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Wake = Callable[[Any], object]


class Waitable:
    """What asyncio asks of all of them."""

    _asyncio_future_blocking = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def wait(self) -> Generator[Self, None, None]:
        """Until the wake-up is called. Raises CancelledError where the task was cancelled instead."""
        self._asyncio_future_blocking = True
        yield self


class Arrival(Waitable, Generic[T]):
    """A thread's future. asyncio.wrap_future gives the same in two turns of the loop more."""

    def __init__(self, future: "Future[T]") -> None:
        super().__init__()
        self._future = future

    def __await__(self) -> Generator[Any, None, T]:
        try:
            if not self._future.done():
                yield from self.wait()
            return self.result()
        finally:
            del self._future  # whose callback holds this: neither would go before the garbage collector came

    def add_done_callback(self, wake: Wake, *, context: Context | None = None) -> None:
        def arrive(_: object) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(wake, self, context=context)

        self._future.add_done_callback(arrive)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002  (asyncio gives a reason)
        """By the task that waits, when somebody cancels it."""
        return self._future.cancel()

    def result(self) -> T:
        try:
            return self._future.result()
        except CancelledError:
            raise asyncio.CancelledError from None


class Gate(Waitable):
    """A task waits here until somebody on the loop, in no task, opens the gate: it runs on at once, inside `open`."""

    def __init__(self) -> None:
        super().__init__()
        self._wake: Callable[[], object] | None = None
        self._is_cancelled = False

    def __await__(self) -> Generator[Any, None, None]:
        """May end without `open`, so whoever waits looks again for what it waits for."""
        yield from self.wait()

    def open(self) -> None:
        """Nothing happens where nobody waits."""
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def add_done_callback(self, wake: Wake, *, context: Context | None = None) -> None:
        def run_on() -> None:
            if context is None:
                wake(self)
            else:
                context.run(wake, self)

        self._wake = run_on

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002
        """By the task that waits, when somebody cancels it: that one may be running, so not at once."""
        self._is_cancelled = True
        self._loop.call_soon(self.open)
        return True

    def result(self) -> None:
        if self._is_cancelled:
            self._is_cancelled = False
            raise asyncio.CancelledError
