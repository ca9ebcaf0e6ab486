"""The one engine thread: take requests in, step, hand results out.

Knows: jobs, the scheduler, the runner, the clock.
Never knows: arrays' contents, text, safety.

Submission, cancellation and closing come from any thread and only touch the mailbox; all else belongs to the engine
thread. A future is resolved outside the mailbox's lock, so its callbacks may submit again.

A row whose request may not draw yet, because what its grammar allows is still being worked out on another thread, is held
here. Its sequence has nothing left to compute until then, so the others go on without it.

Failures. An exception from a request's own callbacks or logits fails that request. An exception from the model step
fails every running request with EngineClosed (cause chained), frees their blocks, and the loop goes on with those that
wait; how many steps failed, and how many in a row up to now, is in the statistics. Any other exception is a fault of
this engine: it is logged, all pending requests fail with EngineClosed, and the engine stays closed.
"""

import heapq
import logging
import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from guardhouse.engine.job import Job
from guardhouse.engine.mailbox import Mailbox
from guardhouse.engine.request import RequestResult
from guardhouse.engine.runner import Float32, Runner
from guardhouse.engine.scheduler import Chunk, Scheduler, StepPlan
from guardhouse.errors import ContextOverflow, DeadlineExceeded, EngineClosed, VerdictError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """Written by the engine thread, read by any."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    failed_steps: int = 0
    failed_steps_in_a_row: int = 0


class EngineLoop:
    """Owns the engine thread. Invariant: a submitted job is in the mailbox or in `_jobs` until its future is resolved."""

    def __init__(self, runner: Runner, scheduler: Scheduler, max_queue: int) -> None:
        self.counters = Counters()
        self._runner = runner
        self._scheduler = scheduler
        self._mailbox = Mailbox(max_queue)
        self._jobs: dict[int, Job] = {}
        self._held: dict[int, Float32] = {}  # job id -> its newest row, until it may draw
        self._is_stuck = False  # nothing can be computed until a held job may draw
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, job id); finished jobs may linger in it
        self._thread = threading.Thread(target=self._run, name="guardhouse-engine", daemon=True)
        self._thread.start()

    # Any thread

    @property
    def num_inbox(self) -> int:
        return self._mailbox.num_arrived

    def submit(self, job: Job) -> None:
        self._mailbox.submit(job)

    def close(self) -> None:
        """End after the current step; whatever is pending fails with EngineClosed."""
        self._mailbox.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # The engine thread

    def _run(self) -> None:
        cause: BaseException | None = None
        try:
            while self._take_in():
                self._step()
            for job in list(self._jobs.values()):
                self._drop(job, closed_by(None))
            self._scheduler.blocks.check_idle()
        except BaseException as error:  # nobody may wait for ever on a future of a dead thread
            cause = error
            logger.critical("the engine failed and is closed", exc_info=True)
        finally:
            self._fail_everything(cause)

    def _take_in(self) -> bool:
        """Wait until there is something to do; note what arrived, was cancelled or is late. False: close."""
        if not self._scheduler.has_work:
            self._scheduler.blocks.check_idle()
        mail = self._mailbox.take(is_idle=not self._scheduler.has_work or self._is_stuck)
        if mail is None:
            return False
        self._is_stuck = False
        for job in mail.arrived:
            self._add(job)
        for job_id in mail.cancelled:
            if job_id in self._jobs:
                self._drop(self._jobs[job_id], None)
        for job in mail.unblocked:
            self._draw_held(job)
        self._drop_late()
        return True

    def _add(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.pin is not None and (self._scheduler.blocks.is_pinned(job.sequence.tokens) or self._import(job)):
            self._start(job)
            self._resolve(job, job.result("prefill"))
            return
        self._scheduler.add(job.sequence)
        if job.request.deadline is not None:
            heapq.heappush(self._deadlines, (job.request.deadline, job.id))

    def _import(self, job: Job) -> bool:
        """Pin a prefix whose keys and values were saved. False: it must be computed after all."""
        if job.pin is None or job.pin.file is None:
            return False
        blocks, sequence = self._scheduler.blocks, job.sequence
        if blocks.allocate(sequence, use_cache=False) is None:
            return False
        if not self._runner.load_prefix(sequence.block_table, job.pin.file):
            blocks.free(sequence)
            return False
        sequence.advance(sequence.num_tokens)
        blocks.publish(sequence)
        blocks.pin(sequence)
        return True

    def _drop_late(self) -> None:
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            job = self._jobs.get(heapq.heappop(self._deadlines)[1])
            if job is not None:
                self._drop(job, DeadlineExceeded("the request's time was up before its answer was ready"))

    def _step(self) -> None:
        plan = self._scheduler.schedule()
        for sequence in plan.rejected:
            blocks = self._scheduler.blocks
            num_usable = (blocks.num_blocks - blocks.num_pinned_blocks) * blocks.block_size
            self._resolve(self._jobs[sequence.id], ContextOverflow(sequence.num_tokens, num_usable))
        if not plan.chunks:
            self._is_stuck = bool(self._held)
            return
        for chunk in plan.chunks:
            self._start(self._jobs[chunk.sequence.id])
        num_pairs, began = plan.num_pairs, time.perf_counter()
        try:
            logits = self._runner.run(plan)
        except Exception as error:
            self._fail_running(error)
            return
        finally:
            self._scheduler.end_copies(plan)
        self._scheduler.cost.observe(plan.num_tokens, num_pairs, time.perf_counter() - began)
        self.counters.failed_steps_in_a_row = 0
        self._deliver(plan, logits)

    def _start(self, job: Job) -> None:
        if job.started_s is None:
            job.started_s = time.monotonic()
            self._mailbox.note_started(job.id)
            self.counters.prompt_tokens += job.sequence.num_prompt_tokens
            self.counters.cached_tokens += job.sequence.num_cached_tokens or 0

    def _deliver(self, plan: StepPlan, logits: Float32) -> None:
        row = 0
        is_finite = np.logical_and.reduce(np.isfinite(logits), axis=1)
        for chunk in plan.chunks:
            job = self._jobs[chunk.sequence.id]
            end = row + len(chunk.row_positions)
            if is_finite[row:end].all():
                self._go_on(job, chunk, logits[row:end])
            else:  # nor is what is behind them to be shared
                self._scheduler.blocks.distrust(job.sequence)
                self._drop(job, VerdictError("logits are not finite"))
            row = end

    def _go_on(self, job: Job, chunk: Chunk, rows: Float32) -> None:
        """Give a job its rows; if they are all there and it may, let it draw its next token."""
        try:
            job.take_rows(chunk.row_positions, rows)
            self._scheduler.commit(chunk)
        except Exception as error:
            self._drop(job, error)
            return
        if job.sequence.num_remaining:
            return
        if self._may_draw(job):
            self._draw(job, rows)
        else:
            self._held[job.id] = rows[-1:].copy()

    def _may_draw(self, job: Job) -> bool:
        """False: the mailbox will have the job in it once it may."""
        constraint = job.request.constraint
        return constraint is None or constraint.when_ready(partial(self._mailbox.unblock, job))

    def _draw_held(self, job: Job) -> None:
        rows = self._held.get(job.id)
        if rows is None:
            return
        if job.sequence.num_remaining:  # preempted meanwhile: the row will be computed again, to the same bits
            del self._held[job.id]
        elif self._may_draw(job):
            self._draw(job, rows)

    def _draw(self, job: Job, rows: Float32) -> None:
        """Let a job go on from its newest row, and retire it if it is done."""
        self._held.pop(job.id, None)
        try:
            result = job.next_token(rows)
            if job.pin is not None and job.pin.file is not None:
                self._runner.save_prefix(job.sequence.block_table, job.pin.file)
        except Exception as error:  # from the request's own callbacks: it fails alone
            self._drop(job, error)
            return
        self.counters.generated_tokens += job.sequence.num_remaining  # 1 if a token was drawn, else 0
        if result is None:
            return
        if job.pin is None:
            self._scheduler.remove(job.sequence)
        else:
            self._scheduler.remove_pinned(job.sequence)
        self._resolve(job, result)

    def _fail_running(self, cause: Exception) -> None:
        logger.error("a model step failed", exc_info=cause)
        self.counters.failed_steps += 1
        self.counters.failed_steps_in_a_row += 1
        for sequence in self._scheduler.running:
            self._drop(self._jobs[sequence.id], closed_by(cause))

    def _fail_everything(self, cause: BaseException | None) -> None:
        for job in [*self._jobs.values(), *self._mailbox.close_and_take_jobs()]:
            self._resolve(job, closed_by(cause))

    def _drop(self, job: Job, error: Exception | None) -> None:
        """Take a job off whatever it is doing. None: it was cancelled."""
        self._scheduler.remove(job.sequence)
        self._resolve(job, error)

    def _resolve(self, job: Job, outcome: RequestResult | Exception | None) -> None:
        self._jobs.pop(job.id, None)
        self._held.pop(job.id, None)
        self._mailbox.note_finished(job.id)
        if not job.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, RequestResult):
            job.future.set_result(outcome)
        else:
            job.future.set_exception(outcome)


def closed_by(cause: BaseException | None) -> EngineClosed:
    """One error per request: an exception that several threads raise would mix their tracebacks."""
    error = EngineClosed("the engine was closed" if cause is None else "the engine failed while the request was in it")
    error.__cause__ = cause
    return error
