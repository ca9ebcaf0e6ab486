"""Work that was accepted and is answered later, on disk: what is asked, what has been found out, for how long it is kept.

Knows: SQLite, jobs of many items, requests and results as bytes that mean nothing here.
Never knows: HTTP, JSON, guards.

    queued ──► running ──► completed ──► (retention is over) deleted
       └──────────┴──────► cancelled, expired ──► deleted

What is promised, whatever kills the process at whatever moment:

* A job that `submit` returned is on disk, whole, and stays until it is finished and its retention is over.
* An item's result is recorded once and never changes: a trigger of the database refuses anything else. An item whose
  process died before its result was recorded is run again; nobody has seen a result of it.
* Two processes on one folder never run the same item: only the holder of a file lock claims items, and the system
  takes that lock from a process that dies. Then the next holder takes back what the dead one had claimed.

Requests are what people wrote. They are deleted with the same commit that records their result, overwritten with
zeros in the file, and the write-ahead log is emptied when a job ends. Results are deleted after the retention. The
files can be read by their owner alone.
"""

import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from guardhouse.errors import QueueFull
from guardhouse.server.jobs.job import Item, ItemResult, Job, NewItem, Outcome, State
from guardhouse.server.jobs.tables import HOPELESS, NEXT_BY_TURNS, SUSPECT, open_database

RETRY_AFTER_S = 60  # told to a caller whose job does not fit any more


class JobStore:
    """One database file. Thread-safe; every method may wait for the disk, so none belongs on an event loop.

    >>> store = JobStore(Path("jobs.sqlite3"), retention_s=86400.0)     # doctest: +SKIP
    >>> job = store.submit("echo", [NewItem(b"hello")])                 # doctest: +SKIP
    >>> store.become_runner(), store.claim(1)                           # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path,
        retention_s: float,
        max_pending_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open or create. Raises ConfigError, naming the file, where that cannot be done."""
        self._retention_s = retention_s
        self._max_pending_bytes = max_pending_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._lock_file: int | None = None  # held by the one process that runs items
        self._last_job = 0  # whose turn it was
        self._path = path
        self._db = open_database(path)

    def submit(
        self, kind: str, items: Sequence[NewItem], details: bytes = b"", *, deadline_s: float | None = None
    ) -> Job:
        """Store a job durably. `deadline_s`: seconds after which what is not answered is given up.

        Raises QueueFull where the requests that wait would exceed `max_pending_bytes`.
        """
        assert items, "a job without items would never end"
        job_id, now = str(uuid.uuid4()), self._clock()
        num_bytes = sum(len(item.request) for item in items)
        with self._transaction() as db:
            (pending,) = db.execute("SELECT COALESCE(SUM(num_bytes), 0) FROM jobs WHERE finished_at IS NULL").fetchone()
            if pending + num_bytes > self._max_pending_bytes:
                raise QueueFull(RETRY_AFTER_S)
            cursor = db.execute(
                "INSERT INTO jobs (id, kind, state, details, num_items, num_bytes, created_at, deadline)"
                " VALUES (?, ?, 'queued', ?, ?, ?, ?, ?)",
                (job_id, kind, details, len(items), num_bytes, now, None if deadline_s is None else now + deadline_s),
            )
            db.executemany(
                "INSERT INTO items (job, position, reference, request) VALUES (?, ?, ?, ?)",
                ((cursor.lastrowid, position, item.reference, item.request) for position, item in enumerate(items)),
            )
            return self._read_job(db, job_id)

    def find(self, job_id: str) -> Job | None:
        """The job, or None where there is none of that id or its retention is over."""
        with self._reading() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        job = None if row is None else self._job(row)
        return None if job is None or (job.expires_at or float("inf")) <= self._clock() else job

    def newest(self, kind: str, limit: int, after: str | None = None) -> list[Job]:
        """The newest jobs of a kind, newest first; those older than the job `after`, if it is given."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE kind = ? AND number < COALESCE((SELECT number FROM jobs WHERE id = ?), 1 << 62)"
                " AND COALESCE(finished_at, 1e18) > ? ORDER BY number DESC LIMIT ?",
                (kind, after, self._clock() - self._retention_s, limit),
            ).fetchall()
        return [self._job(row) for row in rows]

    def results(self, job_id: str, first: int = 0, limit: int = -1) -> list[ItemResult]:
        """Answers recorded so far, from position `first` on, by position. `limit` -1: all."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT position, reference, is_success, result FROM items"
                " WHERE job = (SELECT number FROM jobs WHERE id = ?) AND position >= ? AND result IS NOT NULL"
                " ORDER BY position LIMIT ?",
                (job_id, first, limit),
            ).fetchall()
        return [
            ItemResult(position, reference, bool(is_success), result)
            for position, reference, is_success, result in rows
        ]

    def cancel(self, job_id: str) -> Job | None:
        """Give up what is not answered; what is stays. No change where the job has ended. None: no such job."""
        with self._transaction() as db:
            self._end(db, "cancelled", "id = ?", job_id)
        self._shrink_files()
        return self.find(job_id)

    def become_runner(self) -> bool:
        """Try to become the one process that claims items of this file; once it is, it stays so. True if it is.

        Nothing may be running yet: what is still claimed was claimed by someone who has died.
        """
        if self._lock_file is None:
            file = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # another process has it
                os.close(file)
                return False
            self._lock_file = file
        with self._transaction() as db:
            db.execute("UPDATE items SET is_claimed = 0 WHERE is_claimed")
        return True

    def claim(self, limit: int) -> list[Item]:
        """Up to `limit` items to run now, from the unfinished jobs by turns: a long job holds up no short one.

        While an item waits that several processes have died with, nothing else is claimed: it is to run alone.
        """
        return self.exchange((), limit)

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Record results and delete their requests, in one commit. Those of jobs that were given up are dropped."""
        self.exchange(outcomes, 0)

    def exchange(self, outcomes: Sequence[Outcome], limit: int) -> list[Item]:
        """`record`, then `claim`, with one commit and so one flush of the disk."""
        has_ended = False
        with self._transaction() as db:
            for outcome in outcomes:
                has_ended |= self._record(db, outcome)
            items = self._claim(db, limit) if limit else []
        if has_ended:
            self._shrink_files()
        return items

    def release(self, items: Sequence[Item]) -> None:
        """Take claims back, as of items whose run was broken off in good order: they count as never tried."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE items SET is_claimed = 0, num_attempts = num_attempts - 1 WHERE number = ? AND is_claimed",
                [(item.number,) for item in items],
            )

    def hopeless(self) -> list[Item]:
        """Items that are never claimed again, because MAX_ATTEMPTS processes died with them. They lack a result."""
        with self._reading() as db:
            return [Item(*row) for row in db.execute(HOPELESS).fetchall()]

    def tidy(self) -> None:
        """Give up what is past its deadline, delete what is past its retention."""
        now = self._clock()
        with self._transaction() as db:
            num_ended = self._end(db, "expired", "deadline <= ?", now)
            num_deleted = db.execute("DELETE FROM jobs WHERE finished_at <= ?", (now - self._retention_s,)).rowcount
        if num_ended or num_deleted:
            self._shrink_files()

    def close(self) -> None:
        with self._lock:
            self._db.close()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All or nothing, and on disk when it ends."""
        return self._between("BEGIN IMMEDIATE")

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """One moment's state. Waits for no writer, not even for another process's."""
        return self._between("BEGIN")

    @contextmanager
    def _between(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute(begin)
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _claim(self, db: sqlite3.Connection, limit: int) -> list[Item]:
        assert self._lock_file is not None, "only the runner claims"
        if db.execute(SUSPECT).fetchone() is not None:
            is_busy = db.execute("SELECT 1 FROM items WHERE is_claimed LIMIT 1").fetchone() is not None
            found = [] if is_busy else [self._claim_one(db, SUSPECT, ())]
        else:
            found = [self._claim_one(db, NEXT_BY_TURNS, (self._last_job,) * 2) for _ in range(limit)]
        return [item for item in found if item is not None]

    def _claim_one(self, db: sqlite3.Connection, query: str, parameters: tuple[int, ...]) -> Item | None:
        row = db.execute(query, parameters).fetchone()
        if row is None:
            return None
        number, kind, request, self._last_job = row
        db.execute("UPDATE items SET is_claimed = 1, num_attempts = num_attempts + 1 WHERE number = ?", (number,))
        db.execute(
            "UPDATE jobs SET state = 'running', started_at = ? WHERE number = ? AND state = 'queued'",
            (self._clock(), self._last_job),
        )
        return Item(number, kind, request)

    def _record(self, db: sqlite3.Connection, outcome: Outcome) -> bool:
        """True if the job ended with it."""
        number = outcome.item.number
        changed = db.execute(
            "UPDATE items SET result = ?, is_success = ?, request = NULL, is_claimed = 0"
            " WHERE number = ? AND request IS NOT NULL",
            (outcome.result, outcome.is_success, number),
        ).rowcount
        if not changed:
            return False
        (num_left,) = db.execute(
            "UPDATE jobs SET num_done = num_done + 1, num_failed = num_failed + ?"
            " WHERE number = (SELECT job FROM items WHERE number = ?) RETURNING num_items - num_done",
            (not outcome.is_success, number),
        ).fetchone()
        if num_left:
            return False
        self._end(db, "completed", "number = (SELECT job FROM items WHERE number = ?)", number)
        return True

    def _end(self, db: sqlite3.Connection, state: State, which: str, parameter: object) -> int:
        """End unfinished jobs; the requests of theirs that are left are deleted."""
        rows = db.execute(
            f"UPDATE jobs SET state = ?, finished_at = ? WHERE finished_at IS NULL AND {which} RETURNING number",
            (state, self._clock(), parameter),
        ).fetchall()
        db.executemany("UPDATE items SET request = NULL, is_claimed = 0 WHERE job = ? AND request IS NOT NULL", rows)
        return len(rows)

    def _shrink_files(self) -> None:
        """Give free pages back and empty the write-ahead log, which still holds what was deleted."""
        with self._lock:
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read_job(self, db: sqlite3.Connection, job_id: str) -> Job:
        return self._job(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone())

    def _job(self, row: sqlite3.Row | tuple[Any, ...]) -> Job:
        _, job_id, kind, state, details, num_items, num_done, num_failed, _, created, started, finished, deadline = row
        expires = None if finished is None else finished + self._retention_s
        return Job(
            job_id, kind, state, details, num_items, num_done, num_failed, created, started, finished, deadline, expires
        )
