"""Speed of the C kernels on this machine, at the sizes of Llama 7B.

    python -m benchmarks.kernels [--threads 1 2] [--seconds 0.5] [--isa avx2 avx512]

Prints a table and, as the last line, the same as JSON. Each number is the best and the median of repeated calls within
`--seconds`: on a shared machine the best says what the kernel can do, the median what it did. A probe (limits.py) says
what this machine can do at most: products in registers, and reading memory. It runs before every 4-bit product and the
product's shares are of its numbers, since the processor's speed changes while others use the machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import numpy as np

from benchmarks.limits import Limits, Probe
from benchmarks.machine import describe_machine
from guardhouse.ops.cpu import CpuOps, best_isa
from guardhouse.ops.native import ISAS
from guardhouse.ops.table import Batch, DenseWeight, HeadLayout, Int4Weight

HIDDEN, INTERMEDIATE, VOCABULARY, HEADS, HEAD_DIM = 4096, 11008, 32000, 32, 128  # Llama 7B
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Result:
    """One kernel at one size."""

    kernel: str
    isa: str
    threads: int
    tokens: int
    best_ms: float
    median_ms: float
    best_gops: float  # 10^9 multiplications or additions per second, in the best call
    median_gops: float
    best_gbs: float  # 10^9 bytes of weights or cache read per second


@dataclass(frozen=True)
class Case:
    """What is timed, and how much work one call is."""

    kernel: str
    tokens: int
    operations: float
    num_bytes: float
    call: Callable[[], object]


def measure(case: Case, isa: str, threads: int, seconds: float) -> Result:
    """Call for `seconds`, at least five times, after one call to warm up."""
    case.call()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        case.call()
        times.append(time.perf_counter() - start)
    best, median = min(times), statistics.median(times)
    operations, num_bytes = case.operations / 1e9, case.num_bytes / 1e9
    numbers = (best * 1e3, median * 1e3, operations / best, operations / median, num_bytes / best)
    return Result(case.kernel, isa, threads, case.tokens, *(round(number, 4) for number in numbers))


def linear_cases(ops: CpuOps, rng: np.random.Generator) -> Iterator[Case]:
    groups = HIDDEN // 128
    weight = Int4Weight(
        rng.integers(0, 16, (HIDDEN, INTERMEDIATE), dtype=np.uint8),
        rng.integers(0, 16, (groups, INTERMEDIATE), dtype=np.uint8),
        rng.random((groups, INTERMEDIATE), dtype=np.float32),
    )
    head = DenseWeight(rng.standard_normal((VOCABULARY, HIDDEN), dtype=np.float32).astype(np.float16))
    int4, dense = ops.pack_int4(weight), ops.pack_dense(head)
    for name, packed, sizes in (("int4 4096x11008", int4, (1, 6, 64, 512)), ("fp16 4096x32000", dense, (1, 3, 64))):
        num_bytes = sum(array.nbytes for array in packed.arrays.values())
        for tokens in sizes:
            x = rng.standard_normal((tokens, HIDDEN), dtype=np.float32)
            operations = 2.0 * tokens * HIDDEN * packed.out_features
            yield Case(name, tokens, operations, num_bytes, partial(ops.linear, x, packed))


def attention_cases(ops: CpuOps, rng: np.random.Generator, context: int = 1024) -> Iterator[Case]:
    layout = HeadLayout(HEADS, HEADS, HEAD_DIM)
    num_blocks = context // BLOCK_SIZE
    cache = ops.allocate_cache(1, num_blocks, layout, BLOCK_SIZE)
    cache.keys[:], cache.values[:] = rng.standard_normal((2, *cache.keys.shape), dtype=np.float32)
    for tokens in (1, 64, 512):
        qkv = rng.standard_normal((tokens, 3 * HEADS * HEAD_DIM), dtype=np.float32)
        positions = np.arange(context - tokens, context, dtype=np.int32)
        starts, lens = np.array([0, tokens], np.int32), np.array([context], np.int32)
        batch = Batch(positions, positions, starts, lens, np.arange(num_blocks, dtype=np.int32)[None])
        operations = 4.0 * float(positions.sum() + tokens) * HEADS * HEAD_DIM
        call = partial(ops.attention, qkv, layout, cache, 0, batch)
        yield Case(f"attention, context {context}", tokens, operations, 2 * cache.keys.nbytes, call)


def row_cases(ops: CpuOps, rng: np.random.Generator) -> Iterator[Case]:
    x, weight = rng.standard_normal((512, HIDDEN), dtype=np.float32), np.ones(HIDDEN, np.float32)
    gate_up = rng.standard_normal((512, 2 * INTERMEDIATE), dtype=np.float32)
    small = np.zeros((1, 64), np.float32)
    yield Case("rms_norm 4096", 512, 4.0 * x.size, x.nbytes, lambda: ops.rms_norm(x, weight, 1e-5))
    yield Case("silu_mul 11008", 512, 4.0 * gate_up.size, gate_up.nbytes, lambda: ops.silu_mul(gate_up))
    yield Case("add 4096", 512, x.size, 2 * x.nbytes, lambda: ops.add_(x, x))
    yield Case("rms_norm 64 (call overhead)", 1, 256, 256, lambda: ops.rms_norm(small, weight[:64], 1e-5))


def run(isa: str, threads: int, probe: Probe, seconds: float) -> Iterator[tuple[Result, Limits | None]]:
    ops, rng = CpuOps(threads, isa), np.random.default_rng(0)
    for cases in (linear_cases, attention_cases, row_cases):
        for case in cases(ops, rng):
            before = probe.limits(threads) if case.kernel.startswith("int4") else None
            result = measure(case, isa, threads, seconds)
            yield result, before


def shares(result: Result, limits: Limits | None) -> str:
    """How near the best call came to what the machine can do."""
    if limits is None:
        return ""
    products, read = result.best_gops / limits.product_gops, result.best_gbs / limits.read_gbs
    return f" {products:4.0%} of {limits.product_gops:.0f} GOP/s, {read:4.0%} of {limits.read_gbs:.1f} GB/s"


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.5, help="per number")
    parser.add_argument("--isa", nargs="+", choices=list(ISAS), default=[best_isa()], help="instruction sets")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(*machine.values(), sep="\n")
    print(
        f"{'kernel':28} isa      threads tokens   best ms median ms | GOP/s best median |  GB/s | of the machine's limits"
    )
    results, probe = [], Probe()
    for isa, threads in product(arguments.isa, arguments.threads):
        for result, limits in run(isa, threads, probe, arguments.seconds):
            results.append(asdict(result) | ({"limits": asdict(limits)} if limits else {}))
            print(
                f"{result.kernel:28} {isa:8} {threads:7} {result.tokens:6} {result.best_ms:9.3f} {result.median_ms:9.3f} |"
                f" {result.best_gops:10.1f} {result.median_gops:6.1f} | {result.best_gbs:5.1f} |{shares(result, limits)}",
                flush=True,
            )
    print(json.dumps({"machine": machine, "results": results}))


if __name__ == "__main__":
    main()
