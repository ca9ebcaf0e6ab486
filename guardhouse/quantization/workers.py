"""Threads that compute side by side, each with BLAS to itself.

Knows: how many cores to use, how to keep BLAS from starting threads of its own.
Never knows: what is computed.

BLAS's own threads wait for each other by spinning; on a busy machine that cost many times the work itself (docs/log.md).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from threadpoolctl import threadpool_limits


@dataclass(frozen=True, slots=True)
class Workers:
    """A pool and its size."""

    pool: ThreadPoolExecutor
    count: int


@contextmanager
def start_workers(count: int | None) -> Iterator[Workers]:
    """`count` None: one per core."""
    count = count or os.cpu_count() or 1
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(count) as pool:
        yield Workers(pool, count)
