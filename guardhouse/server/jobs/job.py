"""Work that is answered later, as values: what is submitted, claimed, recorded and read.

Knows: the states of a job.
Never knows: where it is kept, what requests and results mean.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["queued", "running", "completed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class NewItem:
    """One question of a job. `reference` is the caller's own name for it."""

    request: bytes
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A claimed question, to be answered with `JobStore.record`."""

    number: int
    kind: str  # the job's
    request: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claimed item."""

    item: Item
    is_success: bool
    result: bytes


@dataclass(frozen=True, slots=True)
class ItemResult:
    """A recorded answer."""

    position: int  # in the order of submission, from 0
    reference: str | None
    is_success: bool
    result: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read. Times are seconds since 1970."""

    id: str
    kind: str
    state: State
    details: bytes  # the submitter's own notes
    num_items: int
    num_done: int  # items with a result, failed ones included
    num_failed: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    deadline: float | None
    expires_at: float | None  # when its results are deleted; None while it is unfinished
