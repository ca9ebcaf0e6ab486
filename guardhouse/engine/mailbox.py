"""What other threads hand to the engine thread, and how many jobs may wait.

Knows: jobs' ids and futures, threads, the clock.
Never knows: the scheduler, blocks, logits.

Submission, cancellation and closing come from any thread and only touch what `_condition` guards.
"""

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from guardhouse.engine.job import Job
from guardhouse.engine.request import RequestResult
from guardhouse.errors import EngineClosed, QueueFull

MAX_RETRY_AFTER_S = 60


@dataclass(slots=True)
class Mail:
    """What came since the engine thread looked last."""

    arrived: list[Job] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)  # ids of jobs
    unblocked: list[Job] = field(default_factory=list)  # what they may draw is known now

    def __bool__(self) -> bool:
        return bool(self.arrived or self.cancelled or self.unblocked)


class Mailbox:
    """Between any thread and the one that computes."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._condition = threading.Condition()
        self._mail = Mail()
        self._is_closing = False
        self._unstarted: set[int] = set()  # ids of jobs that have not run yet: these count against max_queue
        self._finished_s: deque[float] = deque(maxlen=64)

    # Any thread

    @property
    def num_arrived(self) -> int:
        """Jobs that the engine thread has not taken in yet."""
        return len(self._mail.arrived)

    def submit(self, job: Job) -> None:
        """Hand a job over. A full queue refuses neither a pin nor a follow-up. Raises QueueFull or EngineClosed."""
        with self._condition:
            if self._is_closing:
                raise EngineClosed("the engine is closed")
            num_waiting = len(self._unstarted)
            is_refusable = job.pin is None and not job.request.is_follow_up
            if num_waiting >= self._max_queue and is_refusable:
                raise QueueFull(estimate_retry_after_s(num_waiting, self._finished_s))
            self._unstarted.add(job.id)
            self._mail.arrived.append(job)
            self._condition.notify()
        job.future.add_done_callback(partial(self._note_cancelled, job.id))  # not the job: it holds the future

    def unblock(self, job: Job) -> None:
        """Tell that what the job may draw is known."""
        with self._condition:
            self._mail.unblocked.append(job)
            self._condition.notify()

    def close(self) -> None:
        """Take no more jobs, and have `take` return None."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()

    def _note_cancelled(self, job_id: int, future: Future[RequestResult]) -> None:
        if future.cancelled():
            with self._condition:
                self._mail.cancelled.append(job_id)
                self._condition.notify()

    # The engine thread

    def take(self, *, is_idle: bool) -> Mail | None:
        """What came since the last call; waits for some if there is nothing else to do. None: close."""
        with self._condition:
            while is_idle and not (self._mail or self._is_closing):
                self._condition.wait()
            if self._is_closing:
                return None
            mail, self._mail = self._mail, Mail()
        return mail

    def close_and_take_jobs(self) -> list[Job]:
        """Take no more jobs. Returns those that nobody will take in."""
        with self._condition:
            self._is_closing = True
            mail, self._mail = self._mail, Mail()
        return mail.arrived

    def note_started(self, job_id: int) -> None:
        self._unstarted.discard(job_id)

    def note_finished(self, job_id: int) -> None:
        self._unstarted.discard(job_id)
        self._finished_s.append(time.monotonic())


def estimate_retry_after_s(num_waiting: int, finished_s: deque[float]) -> int:
    """Whole seconds in which the waiting requests should be done, at the pace of the last ones that finished."""
    if not finished_s:
        return 1
    seconds_each = (time.monotonic() - finished_s[0]) / len(finished_s)
    return max(1, min(MAX_RETRY_AFTER_S, math.ceil(num_waiting * seconds_each)))
