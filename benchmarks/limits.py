"""What this machine can do at most: products of 8-bit numbers, and reading memory.

Knows: a C probe of two limits.
Never knows: what is measured beside it.
"""

import ctypes
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

PROBE = Path(__file__).with_name("probe.c")
PRODUCT_ROUNDS = 8_000_000  # about 20 ms: longer than a neighbour's short bursts
OPERATIONS_PER_ROUND = 12 * 32 * 2  # instructions, products in each, and as many additions
READ_BYTES = 128 << 20


@dataclass(frozen=True)
class Limits:
    """The most that some threads reach together, by a probe that does nothing else."""

    threads: int
    product_gops: float  # u8 x s8 products and additions: maddubs + paddw in registers
    read_gbs: float  # reading memory, 10^9 bytes per second


class Probe:
    """Compiles probe.c once. None of it exists on processors without AVX2 or machines without a C compiler."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "probe.so"
            command = ["cc", "-O3", "-mavx2", "-shared", "-fPIC", str(PROBE), "-o", str(library)]
            subprocess.run(command, check=True)
            self._library = ctypes.CDLL(str(library))
        self._library.probe_product.argtypes = (ctypes.c_long,)
        self._library.probe_read.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self._buffers: list[np.ndarray[tuple[int], np.dtype[np.uint8]]] = []

    def product_gops(self, threads: int, repeats: int = 3) -> float:
        seconds = _best([partial(self._library.probe_product, PRODUCT_ROUNDS)] * threads, repeats)
        return threads * PRODUCT_ROUNDS * OPERATIONS_PER_ROUND / seconds / 1e9

    def read_gbs(self, threads: int, repeats: int = 3) -> float:
        while len(self._buffers) < threads:
            self._buffers.append(np.ones(READ_BYTES, np.uint8))
        calls = [
            partial(self._library.probe_read, buffer.ctypes.data, READ_BYTES) for buffer in self._buffers[:threads]
        ]
        return threads * READ_BYTES / _best(calls, repeats) / 1e9

    def limits(self, threads: int) -> Limits:
        return Limits(threads, round(self.product_gops(threads), 1), round(self.read_gbs(threads), 2))


def _best(calls: list[Callable[[], object]], repeats: int) -> float:
    """Seconds of the best of some rounds in which all calls run at once, each in a thread."""
    seconds = []
    for _ in range(repeats):
        workers = [threading.Thread(target=call) for call in calls]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
