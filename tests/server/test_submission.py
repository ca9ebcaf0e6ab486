"""Waiting on the loop for what a thread finishes: results, errors and cancellation, both ways."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import pytest

from guardhouse.server.submission import OFF_LOOP_CHARS, result_of
from guardhouse.server.waking import Arrival, Doorbell

LENGTHS = pytest.mark.parametrize("num_chars", [1, OFF_LOOP_CHARS], ids=["on the loop", "beside the loop"])


def soon(act: Callable[["Future[int]"], object]) -> "Future[int]":
    """A future that another thread settles a little later."""
    future: Future[int] = Future()
    threading.Timer(0.02, act, [future]).start()
    return future


async def waited(submit: Callable[[], "Future[int]"], num_chars: int) -> int:
    return await result_of(submit, num_chars)


def run(submit: Callable[[], "Future[int]"], num_chars: int) -> int:
    return asyncio.run(waited(submit, num_chars))


def failed(_: Future[int]) -> "Future[int]":
    raise ValueError("at once")


@LENGTHS
def test_a_result_arrives(num_chars: int) -> None:
    assert run(lambda: soon(lambda future: future.set_result(7)), num_chars) == 7


@LENGTHS
def test_an_error_arrives(num_chars: int) -> None:
    with pytest.raises(ValueError, match="no"):
        run(lambda: soon(lambda future: future.set_exception(ValueError("no"))), num_chars)


@LENGTHS
def test_what_is_refused_at_once_is_raised(num_chars: int) -> None:
    with pytest.raises(ValueError, match="at once"):
        run(lambda: failed(Future()), num_chars)


def test_what_is_done_already_needs_no_waiting() -> None:
    future: Future[int] = Future()
    future.set_result(3)
    assert run(lambda: future, 1) == 3


@LENGTHS
def test_what_was_awaited_goes_without_the_garbage_collector(num_chars: int) -> None:
    async def run() -> "weakref.ref[Future[int]]":
        futures = [soon(lambda future: future.set_result(7))]
        gone = weakref.ref(futures[0])
        assert await result_of(futures.pop, num_chars) == 7
        await asyncio.sleep(0.05)  # the thread that settled it ends
        return gone

    gc.disable()
    try:
        assert asyncio.run(run())() is None
    finally:
        gc.enable()


@LENGTHS
def test_cancelling_the_task_cancels_the_work(num_chars: int) -> None:
    future: Future[int] = Future()

    async def run() -> None:
        waiting = asyncio.ensure_future(waited(lambda: future, num_chars))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())
    assert future.cancelled()


def test_a_task_that_is_cancelled_as_its_result_arrives_ends_cancelled() -> None:
    async def run() -> None:
        future: Future[int] = Future()
        waiting = asyncio.ensure_future(waited(lambda: future, 1))
        await asyncio.sleep(0)
        future.set_result(1)  # the wake-up is on its way
        assert waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(run())


def test_work_that_somebody_else_cancels_ends_the_wait() -> None:
    async def run() -> None:
        async with asyncio.timeout(5):
            await result_of(lambda: soon(lambda future: future.cancel()), 1)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_a_deadline_ends_the_wait() -> None:
    future: Future[int] = Future()

    async def run() -> None:
        async with asyncio.timeout(0.02):
            await Arrival(future)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert future.cancelled()


def test_many_tasks_each_get_their_own() -> None:
    async def run() -> list[int]:
        waits: list[Awaitable[int]] = [
            waited(lambda number=number: soon(lambda future: future.set_result(number)), 1)  # type: ignore[misc]
            for number in range(50)
        ]
        return await asyncio.gather(*waits)

    assert asyncio.run(run()) == list(range(50))


@pytest.mark.parametrize("has_eventfd", [True, False], ids=["eventfd", "pipe"])
def test_results_that_come_while_the_loop_is_busy_all_arrive(
    monkeypatch: pytest.MonkeyPatch, has_eventfd: bool
) -> None:
    if not has_eventfd:
        monkeypatch.delattr(os, "eventfd", raising=False)

    async def run() -> list[int]:
        futures: list[Future[int]] = [Future() for _ in range(100)]
        waiting = asyncio.gather(*(waited(lambda future=future: future, 1) for future in futures))  # type: ignore[misc]
        await asyncio.sleep(0)
        for _ in range(2):  # a second time after the bell was answered
            half = [futures.pop() for _ in range(50)]
            settling = threading.Thread(target=lambda half=half: [future.set_result(7) for future in half])  # type: ignore[misc]
            settling.start()
            settling.join()  # on the loop's own thread: nothing can be answered yet
            await asyncio.sleep(0.02)
        return await waiting

    assert asyncio.run(run()) == [7] * 100


def test_a_result_after_the_loop_has_ended_disturbs_nobody() -> None:
    future: Future[int] = Future()

    async def run() -> None:
        asyncio.ensure_future(waited(lambda: future, 1))  # noqa: RUF006
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(run())
    loop.close()
    future.set_result(1)


def test_a_call_that_fails_strands_none_behind_it() -> None:
    async def ring_twice() -> None:
        loop, answered = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        bell = Doorbell.of_running_loop()
        bell.ring(lambda: 1 // 0)
        bell.ring(answered.set)
        await asyncio.wait_for(answered.wait(), 10)

    failures: list[object] = []
    asyncio.run(ring_twice())
    assert [type(failure) for failure in failures] == [ZeroDivisionError]


def test_a_loop_takes_its_doorbell_with_it() -> None:
    async def bell() -> Doorbell:
        return Doorbell.of_running_loop()

    first = asyncio.run(bell())
    second = asyncio.run(bell())
    assert second is not first
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
