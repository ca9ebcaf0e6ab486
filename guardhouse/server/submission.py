"""Wait on the event loop for work that the guard does elsewhere.

Knows: futures, threads, cancellation.
Never knows: what is asked or answered.
"""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from contextvars import Context
from typing import Any, Generic, TypeVar

OFF_LOOP_CHARS = 16384  # texts from here on are cut into tokens beside the event loop, not on it

T = TypeVar("T")


async def result_of(submit: Callable[[], "Future[T]"], num_chars: int) -> T:
    """Submit and wait; a cancellation reaches the guard's future, even one that is still being submitted.

    `num_chars`: how much text `submit` has to cut into tokens.
    """
    if num_chars < OFF_LOOP_CHARS:
        return await Arrival(submit())
    submission = asyncio.get_running_loop().run_in_executor(None, submit)
    try:
        future = await asyncio.shield(submission)
    except asyncio.CancelledError:
        submission.add_done_callback(_cancel_result)
        raise
    return await Arrival(future)


class Arrival(Generic[T]):
    """A thread's future that a task can await. asyncio.wrap_future gives the same in two turns of the loop more.

    asyncio takes whatever has `_asyncio_future_blocking` for a future (asyncio/futures.py, isfuture): the task leaves its
    wake-up here, and the thread that finishes the work puts that onto the loop. Awaited by one task, once.
    """

    _asyncio_future_blocking = False

    def __init__(self, future: "Future[T]") -> None:
        self._future = future
        self._loop = asyncio.get_running_loop()

    def __await__(self) -> Generator[Any, None, T]:
        try:
            if not self._future.done():
                self._asyncio_future_blocking = True
                yield self
            return self.result()
        finally:
            del self._future  # whose callback holds this: neither would go before the garbage collector came

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[["Arrival[T]"], object], *, context: Context | None = None) -> None:
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


async def off_loop(work: Callable[[], T], num_chars: int) -> T:
    """The result of cutting that much text into tokens: at once, or on a thread where it is long."""
    return work() if num_chars < OFF_LOOP_CHARS else await asyncio.to_thread(work)


def _cancel_result(submission: "asyncio.Future[Future[Any]]") -> None:
    if not submission.cancelled() and submission.exception() is None:
        submission.result().cancel()
