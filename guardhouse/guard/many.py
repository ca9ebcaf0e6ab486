"""Judge many conversations, in order, as many at once as the queue takes.

Knows: how to submit one, when the queue is full.
Never knows: what is judged, engines, files.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from guardhouse.errors import QueueFull

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def submit_many(
    submit: Callable[[Item], Future[Outcome]],
    items: Iterable[Item],
    max_pending: int,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """`submit(item).result()` for every item, in order. `progress` gets the number that is done. The first error ends it."""
    pending: deque[Future[Outcome]] = deque()
    outcomes: list[Outcome] = []

    def take_oldest() -> None:
        outcomes.append(pending.popleft().result())
        if progress:
            progress(len(outcomes))

    def make_room(retry_after_s: float) -> None:
        if pending:
            take_oldest()
        else:
            time.sleep(retry_after_s)

    try:
        for item in items:
            if len(pending) >= max_pending:
                take_oldest()
            pending.append(_submit_patiently(submit, item, make_room))
        while pending:
            take_oldest()
    finally:
        for future in pending:
            future.cancel()
    return outcomes


def _submit_patiently(
    submit: Callable[[Item], Future[Outcome]], item: Item, make_room: Callable[[float], None]
) -> Future[Outcome]:
    while True:
        try:
            return submit(item)
        except QueueFull as full:  # by long texts among the items, or by other callers
            make_room(full.retry_after_s)
