"""Mapped weights brought into memory of this process, on large pages.

A file's pages in memory are the system's: it drops them when it likes (under pressure, or after a minute without use where
memory is reclaimed ahead of need), and a guard that was idle would then read gigabytes from the disk for its next verdict.
They are also 4 KiB each, so that a product spends time on translating addresses.

Knows: arrays that are whole memory-mapped files, how much memory is left.
Never knows: what the arrays mean.
"""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import BackendError

RESERVED_BYTES = 1 << 30  # left to everything else: where less would be, arrays stay mapped


def into_memory(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only copy of an array that is a mapped file; the array itself if it is none or there is no room.

    Raises BackendError if the file became shorter.
    """
    mapped = array.base
    if not isinstance(mapped, np.memmap) or mapped.nbytes != array.nbytes or not array.nbytes:
        return array
    if array.nbytes + RESERVED_BYTES > available_bytes():
        return array
    memory = mmap.mmap(-1, array.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    _read_into(memory, mapped)
    copy = np.frombuffer(memory, array.dtype).reshape(array.shape)
    copy.flags.writeable = False
    return copy


def available_bytes() -> int:
    """Memory that can be had without swapping; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), 0)


def _read_into(memory: mmap.mmap, mapped: "np.memmap[Any, Any]") -> None:
    """By reading, not by copying from the mapping: the system then reads ahead, and nothing is mapped twice."""
    assert mapped.filename is not None, "a mapping without a file"
    with Path(mapped.filename).open("rb", buffering=0) as file, memoryview(memory) as target:
        file.seek(mapped.offset)
        done = 0
        while done < len(target):
            count = file.readinto(target[done:])
            if not count:
                raise BackendError(f"{Path(mapped.filename).name}: became shorter while it was read")
            done += count
