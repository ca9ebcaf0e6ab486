"""Wait on the event loop for work that the guard does elsewhere.

Knows: futures, threads, cancellation, how much text the loop may cut into tokens itself.
Never knows: what is asked or answered.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from guardhouse.server.waking import Arrival

OFF_LOOP_CHARS = 16384  # texts from here on are cut into tokens beside the event loop, not on it

T = TypeVar("T")


def result_of(submit: Callable[[], "Future[T]"], num_chars: int) -> Awaitable[T]:
    """Submit, and what to await for the result; a cancellation reaches the guard's future.

    `num_chars`: how much text `submit` has to cut into tokens.
    """
    return Arrival(submit()) if num_chars < OFF_LOOP_CHARS else _result_beside_loop(submit)


async def _result_beside_loop(submit: Callable[[], "Future[T]"]) -> T:
    """A cancellation reaches even a future that is still being submitted."""
    submission = asyncio.get_running_loop().run_in_executor(None, submit)
    try:
        future = await asyncio.shield(submission)
    except asyncio.CancelledError:
        submission.add_done_callback(_cancel_result)
        raise
    return await Arrival(future)


async def off_loop(work: Callable[[], T], num_chars: int) -> T:
    """The result of cutting that much text into tokens: at once, or on a thread where it is long."""
    return work() if num_chars < OFF_LOOP_CHARS else await asyncio.to_thread(work)


def _cancel_result(submission: "asyncio.Future[Future[Any]]") -> None:
    if not submission.cancelled() and submission.exception() is None:
        submission.result().cancel()
