"""Runs the stored jobs beside the callers who wait for their answers.

Knows: the job store, handlers by kind of job, how many items run at once.
Never knows: HTTP, what requests and results mean.

A handler gets an item's request and returns its result; an exception is a result, too (errors.py's table words it),
unless it only says "not now" (a full queue, a model that is loading): then the item waits and is tried again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from guardhouse.errors import EngineClosed, QueueFull
from guardhouse.server.errors import ModelUnavailable, describe
from guardhouse.server.jobs.job import Item, Job, NewItem, Outcome
from guardhouse.server.jobs.store import JobStore

logger = logging.getLogger(__name__)

Handler = Callable[[bytes], Awaitable[bytes]]
T = TypeVar("T")

MAX_ITEMS_AT_ONCE = 16  # few enough that those who wait for an answer hardly notice, enough to fill a batch
RETRY_S = 1.0  # after "not now"; and how often a second process asks whether the first is gone
TIDY_EVERY_S = 30.0


class FailedItem(msgspec.Struct, frozen=True):
    """The result of an item that failed, as JSON: a row of errors.py's table."""

    status: int
    code: int
    title: str
    description: str

    @property
    def message(self) -> str:
        return f"AiError: {self.title}: {self.description}"


class JobRunner:
    """Owns the store and the task that works on it. All methods belong to one event loop.

    The database is created with the first job, so that nobody finds files of a feature they never used.
    """

    def __init__(self, open_store: Callable[[Path], JobStore], path: Path) -> None:
        self._open_store = open_store
        self._path = path
        self._handlers: Mapping[str, Handler] = {}
        self._store: JobStore | None = None
        self._opening = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, handlers: Mapping[str, Handler]) -> None:
        """Say what runs each kind of job, and go on with what an earlier process left, if there is anything."""
        self._handlers = handlers
        if self._path.exists():
            await self._opened()

    async def close(self) -> None:
        """Break off what runs; it is run again by the next process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def submit(
        self, kind: str, items: Sequence[NewItem], details: bytes = b"", *, deadline_s: float | None = None
    ) -> Job:
        """Store a job and begin with it. Once this returns, the job survives anything. Raises QueueFull."""
        assert kind in self._handlers, f"nothing can run a {kind}"
        job = await self.ask(lambda store: store.submit(kind, items, details, deadline_s=deadline_s))
        self._wake.set()
        return job

    async def ask(self, question: Callable[[JobStore], T]) -> T:
        """Anything else of the store, on a thread: `await runner.ask(lambda store: store.find(job_id))`."""
        store = await self._opened()
        return await asyncio.to_thread(question, store)

    async def _opened(self) -> JobStore:
        async with self._opening:
            if self._store is None:
                self._store = await asyncio.to_thread(self._open_store, self._path)
                self._task = asyncio.create_task(self._run(self._store))
        return self._store

    async def _run(self, store: JobStore) -> None:
        """Work for ever: a full or failing disk stops it for a moment, not for good."""
        while True:
            try:
                await self._work(store)
            except Exception:
                logger.exception("stored jobs could not be worked on; trying again")
                await asyncio.sleep(RETRY_S)

    async def _work(self, store: JobStore) -> None:
        while not await asyncio.to_thread(store.become_runner):
            await asyncio.sleep(RETRY_S)
        await asyncio.to_thread(_give_up_hopeless, store)
        tidying = asyncio.create_task(self._keep_tidy(store))
        running: dict[asyncio.Task[Outcome], Item] = {}
        try:
            while True:
                await self._step(store, running)
        finally:
            tidying.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(tidying, *running, return_exceptions=True)
            await asyncio.to_thread(store.release, list(running.values()))

    async def _step(self, store: JobStore, running: dict[asyncio.Task[Outcome], Item]) -> None:
        """Record all results there are and claim what there is room for; then wait for a result or for more work."""
        self._wake.clear()
        finished = [task for task in running if task.done()]
        room = MAX_ITEMS_AT_ONCE - len(running) + len(finished)
        items = await asyncio.to_thread(store.exchange, [task.result() for task in finished], room)
        for task in finished:
            del running[task]
        for item in items:
            running[asyncio.create_task(self._answer(item))] = item
        woken = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({woken, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    async def _answer(self, item: Item) -> Outcome:
        handler = self._handlers.get(item.kind)
        while True:
            try:
                if handler is None:
                    raise LookupError(f"a job of kind {item.kind}, which this version cannot run")
                return Outcome(item, True, await handler(item.request))
            except (QueueFull, ModelUnavailable, EngineClosed):  # not now
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                return Outcome(item, False, failed_result(error))

    async def _keep_tidy(self, store: JobStore) -> None:
        while True:
            await asyncio.to_thread(store.tidy)
            await asyncio.sleep(TIDY_EVERY_S)


def failed_result(error: Exception) -> bytes:
    """A FailedItem as JSON."""
    failure = describe(error)
    return msgspec.json.encode(FailedItem(failure.status, failure.code, failure.title, failure.description))


def _give_up_hopeless(store: JobStore) -> None:
    items = store.hopeless()
    if items:
        logger.error("%d stored requests are given up: the server ended each time they ran", len(items))
        store.record(
            [Outcome(item, False, failed_result(RuntimeError("the server ended while it ran"))) for item in items]
        )
