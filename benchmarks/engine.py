"""How fast the engine judges, reads and writes, and how cost grows with work.

    python -m benchmarks.engine [--model DIR] [--threads 2] [--rounds 5] [--only verdicts growth decode]

verdicts   a pinned policy head, messages of some length, the tail and the forced continuation, two rows of logits: what one
           check is to the engine. So many clients at a time, each asking again as soon as it has its answer.
growth     one prompt of 16 … 4,000 tokens, and 1 … 64 messages at once, each against the smallest: 1.0 is linear.
decode     1 and 8 sequences that write.

Texts are random token ids: no two share a prefix beyond the head, so that no cache helps. Prints tables and, as the last
line, the same as JSON. Without --model it measures the embedded guard.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from guardhouse.config import Settings
from guardhouse.engine.engine import Engine
from guardhouse.engine.request import Request, SamplingParams
from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.guard.prompt import FrameStore, PromptFrame
from guardhouse.guard.sizing import engine_config, window_of
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import load_llama
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops import load_ops

FIRST_PLAIN_ID = 300  # below are control and byte tokens


@dataclass(frozen=True)
class Verdicts:
    """Closed loop: `clients` at a time."""

    message_tokens: int
    clients: int
    per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Growth:
    """One size of work; `per_unit` is its cost per token or message over that of the smallest size."""

    what: str
    size: int
    median_ms: float
    per_unit: float


@dataclass(frozen=True)
class Decode:
    """Writing, `sequences` at a time, after a short prompt."""

    sequences: int
    tokens_per_s: float
    ms_per_step: float


class Bench:
    """An engine with the policy's head pinned, and random messages for it."""

    def __init__(self, engine: Engine, frame: PromptFrame, vocab_size: int) -> None:
        self.engine = engine
        self._frame = frame
        self._vocab_size = vocab_size
        self._random = np.random.default_rng(0)
        engine.pin(np.array(frame.head, np.int32))

    def ids(self, num_tokens: int) -> list[int]:
        return self._random.integers(FIRST_PLAIN_ID, self._vocab_size, num_tokens).tolist()

    def verdict(self, num_tokens: int) -> Request:
        """What a check of a message of so many tokens asks of the engine."""
        prompt = [*self._frame.head, *self.ids(num_tokens), *self._frame.tail]
        ids = np.array([*prompt, *self._frame.answers.forced], np.int32)
        return Request(ids, logit_positions=(len(prompt) - 1, len(ids) - 1))

    def prefill(self, num_tokens: int) -> Request:
        return Request(np.array(self.ids(num_tokens), np.int32), logit_positions=(num_tokens - 1,))

    def seconds(self, requests: list[Request]) -> float:
        began = time.perf_counter()
        for future in [self.engine.submit(request) for request in requests]:
            future.result()
        return time.perf_counter() - began


def open_bench(model: Path, threads: int | None) -> Bench:
    settings = Settings(threads=threads, max_queue=1024)
    checkpoint = Checkpoint.open(model)
    ops = load_ops("auto", threads)
    window = window_of(checkpoint.config, settings)
    llama = load_llama(checkpoint, ops, settings.cache_dir, window)
    engine = Engine(llama, engine_config(checkpoint.config, settings, window, ops, checkpoint.fingerprint))
    return Bench(engine, FrameStore(Tokenizer.load(model)).frame("user"), checkpoint.config.vocab_size)


def measure_verdicts(bench: Bench, length: int, clients: int, num_requests: int) -> Verdicts:
    latencies: list[float] = []
    todo = iter([bench.verdict(length) for _ in range(num_requests)])
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                request = next(todo, None)
            if request is None:
                return
            latencies.append(bench.seconds([request]))

    workers = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wall = time.perf_counter() - began
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return Verdicts(length, clients, round(num_requests / wall, 3), round(float(p50), 3), round(float(p99), 3))


def measure_growth(bench: Bench, rounds: int) -> Iterator[Growth]:
    window = bench.engine.config.max_model_len
    sizes = [size for size in (16, 128, 512, 1000, 2000, 4000) if size <= window]
    yield from _growth("prompt tokens", sizes, rounds, lambda size: bench.seconds([bench.prefill(size)]))
    yield from _growth(
        "messages at once", [1, 4, 16, 64], rounds, lambda size: bench.seconds([bench.verdict(60) for _ in range(size)])
    )


def _growth(what: str, sizes: list[int], rounds: int, run: Callable[[int], float]) -> Iterator[Growth]:
    run(sizes[0])
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):  # sizes in turn, so that a disturbance meets them all
        for size in sizes:
            times[size].append(run(size))
    first = statistics.median(times[sizes[0]]) / sizes[0]
    for size in sizes:
        median = statistics.median(times[size])
        yield Growth(what, size, round(median * 1e3, 3), round(median / size / first, 3))


def measure_decode(bench: Bench, sequences: int, num_tokens: int) -> Decode:
    sampling = SamplingParams(max_tokens=num_tokens)
    prompts = [np.array(bench.ids(16), np.int32) for _ in range(sequences)]
    prefill = bench.seconds([Request(prompt, sampling=SamplingParams(max_tokens=1)) for prompt in prompts])
    seconds = bench.seconds([Request(prompt, sampling=sampling) for prompt in prompts]) - prefill
    steps = num_tokens - 1
    return Decode(sequences, round(sequences * steps / seconds, 2), round(seconds / steps * 1e3, 3))


def report(rows: list[Verdicts] | list[Growth] | list[Decode]) -> list[dict[str, object]]:
    """Print one table; return it for the JSON line."""
    found = [asdict(row) for row in rows]
    if found:
        widths = {name: max(len(name), *(len(str(row[name])) for row in found)) for name in found[0]}
        for cells in [dict(zip(widths, widths, strict=True)), *found]:
            print("  ".join(f"{cells[name]!s:>{width}}" for name, width in widths.items()))
        print()
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED_FOLDER)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="per row of the verdicts table")
    parser.add_argument("--lengths", type=int, nargs="+", default=[20, 60, 200], help="message tokens")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--decode-tokens", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=["verdicts", "growth", "decode"])
    arguments = parser.parse_args()
    wanted = arguments.only or ["verdicts", "growth", "decode"]
    machine = describe_machine()
    print(*machine.values(), sep="\n")
    bench = open_bench(arguments.model, arguments.threads)
    results: dict[str, object] = {}
    with bench.engine:
        bench.seconds([bench.verdict(60)])
        if "verdicts" in wanted:
            cases = [(length, clients) for length in arguments.lengths for clients in arguments.clients]
            rows = [measure_verdicts(bench, *case, max(arguments.requests, case[1])) for case in cases]
            results["verdicts"] = report(rows)
        if "growth" in wanted:
            results["growth"] = report(list(measure_growth(bench, arguments.rounds)))
        if "decode" in wanted:
            results["decode"] = report([measure_decode(bench, n, arguments.decode_tokens) for n in (1, 8)])
    print(json.dumps({"machine": machine, "model": arguments.model.name, **results}))


if __name__ == "__main__":
    main()
