"""Wait on the event loop for work that the guard does elsewhere.

Knows: futures, threads, cancellation.
Never knows: what is asked or answered.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

OFF_LOOP_CHARS = 16384  # texts from here on are cut into tokens beside the event loop, not on it

T = TypeVar("T")


async def result_of(submit: Callable[[], "Future[T]"], num_chars: int) -> T:
    """Submit and wait; a cancellation reaches the guard's future, even one that is still being submitted.

    `num_chars`: how much text `submit` has to cut into tokens.
    """
    if num_chars < OFF_LOOP_CHARS:
        return await _outcome(submit())
    submission = asyncio.get_running_loop().run_in_executor(None, submit)
    try:
        future = await asyncio.shield(submission)
    except asyncio.CancelledError:
        submission.add_done_callback(_cancel_result)
        raise
    return await _outcome(future)


async def _outcome(future: "Future[T]") -> T:
    """As `await asyncio.wrap_future(future)`, but only the wake-up comes through the loop, not a copy of the outcome."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    future.add_done_callback(lambda _: None if loop.is_closed() else loop.call_soon_threadsafe(_wake, done))
    try:
        await done
    except asyncio.CancelledError:
        future.cancel()
        raise
    return future.result()


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


async def off_loop(work: Callable[[], T], num_chars: int) -> T:
    """The result of cutting that much text into tokens: at once, or on a thread where it is long."""
    return work() if num_chars < OFF_LOOP_CHARS else await asyncio.to_thread(work)


def _cancel_result(submission: "asyncio.Future[Future[Any]]") -> None:
    if not submission.cancelled() and submission.exception() is None:
        submission.result().cancel()
