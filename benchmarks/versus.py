"""Guardhouse beside its peers, interleaved in one run, on random weights of the same shape.

    python -m benchmarks.versus prefill classify --checkpoint /tmp/7b --gguf /tmp/7b-q4_0.gguf --peer-python VENV/bin/python
    python -m benchmarks.versus product embedded

prefill   one prompt of 128 and of 512 tokens: against llama.cpp's Q4_0 (llama_peer.py, in another environment)
classify  830-token shared head in the cache, 60-token messages and a 64-token tail, at 1 and 8 clients: the verdict's
          logits (with three forced ids more) against llama.cpp's next-token logits, its requests decoded as one batch
product   the bare 4-bit product 4096 -> 4096: against torch's int4 path and onnxruntime's MatMulNBits
embedded  a verdict of the embedded guard's shape behind its cached head: against transformers on torch, float32

Each pair is run in turns, some rounds; medians count. Both sides hold their weights in memory of their own (no mapped files,
whose pages the system may drop while the other side works), and the one that waits does not run. The last line is one
line of JSON.
"""

import argparse
import json
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.limits import Probe
from benchmarks.machine import describe_machine
from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Request
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import load_llama
from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.table import HeadLayout, Int4Weight, KVCache

HEAD, MESSAGE, TAIL, FORCED = 830, 60, 64, 3  # tokens of Llama Guard 7B's classification
HIDDEN = 4096
TINY = Path(__file__).parents[1] / "guardhouse" / "assets" / "tiny"


@dataclass(frozen=True)
class Pair:
    """The same work on both sides."""

    work: str
    peer: str
    our_s: float
    their_s: float
    ratio: float  # how many times as fast we are
    rounds: int


def measure(work: str, peer: str, rounds: int, ours: Callable[[], object], theirs: Callable[[], float | None]) -> Pair:
    """In turns. `theirs` returns its own seconds, or None to be timed from here."""
    our_times, their_times = [], []
    for _ in range(rounds):
        our_times.append(_timed(ours))
        start = time.perf_counter()
        reported = theirs()
        their_times.append(reported if reported is not None else time.perf_counter() - start)
    ours_s, theirs_s = statistics.median(our_times), statistics.median(their_times)
    pair = Pair(work, peer, round(ours_s, 6), round(theirs_s, 6), round(theirs_s / ours_s, 2), rounds)
    print(f"{work:34} {peer:24} {ours_s * 1e3:11.2f} {theirs_s * 1e3:11.2f} {pair.ratio:7.2f}", flush=True)
    return pair


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class LlamaCpp:
    """llama_peer.py in a process of its own, which is stopped while it has no order: its idle threads spin for a while.

    Our own threads sleep while it works.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._orders, self._answers = process.stdin, process.stdout
        self.system = json.loads(self._answers.readline())["system"]
        process.send_signal(signal.SIGSTOP)

    def do(self, **order: Any) -> float:
        """Its own seconds."""
        self._process.send_signal(signal.SIGCONT)
        print(json.dumps(order), file=self._orders, flush=True)
        answer = json.loads(self._answers.readline())
        self._process.send_signal(signal.SIGSTOP)
        return float(answer["seconds"])


@contextmanager
def llama_cpp(arguments: argparse.Namespace) -> Iterator[LlamaCpp]:
    script = str(Path(__file__).with_name("llama_peer.py"))
    command = [arguments.peer_python, script, "serve", str(arguments.gguf), "--threads", str(arguments.threads)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield LlamaCpp(process)
        finally:
            process.kill()


class TouchedOps(CpuOps):
    """Ours, with a key-value cache whose pages are there from the start, as llama.cpp's are: the system's work of
    clearing them at their first use would else be counted in some rounds and not in others."""

    def allocate_cache(self, num_layers: int, num_blocks: int, layout: HeadLayout, block_size: int) -> KVCache:
        cache = super().allocate_cache(num_layers, num_blocks, layout, block_size)
        cache.keys.fill(0)
        cache.values.fill(0)
        return cache


@contextmanager
def engine_7b(arguments: argparse.Namespace) -> Iterator[Engine]:
    checkpoint = Checkpoint.open(arguments.checkpoint)
    model = load_llama(checkpoint, TouchedOps(arguments.threads), arguments.cache, max_positions=4096)
    config = EngineConfig(num_blocks=256, max_model_len=2048, model_fingerprint=checkpoint.fingerprint)
    with Engine(model, config) as engine:
        yield engine


class Prompts:
    """Random ids that never repeat, so that no cache answers for the kernels."""

    def __init__(self, vocabulary: int, num_head: int) -> None:
        self._generator, self._vocabulary = np.random.default_rng(2), vocabulary
        self.head = self._ids(num_head)

    def request(self, num_new: int, *, is_behind_head: bool, num_rows: int = 1) -> Request:
        new = self._ids(num_new)
        ids = np.concatenate([self.head, new]) if is_behind_head else new
        return Request(ids, tuple(range(len(ids) - num_rows, len(ids))))

    def _ids(self, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        return self._generator.integers(1, self._vocabulary, count).astype(np.int32)


def run_together(engine: Engine, requests: list[Request]) -> None:
    for future in [engine.submit(request) for request in requests]:
        assert np.isfinite(future.result().logits).all()


def prefill(arguments: argparse.Namespace) -> Iterator[Pair]:
    prompts = Prompts(32000, 0)
    with engine_7b(arguments) as engine, llama_cpp(arguments) as peer:
        for tokens in arguments.tokens:
            yield measure(
                f"prefill of {tokens} tokens",
                "llama.cpp Q4_0",
                arguments.rounds,
                lambda count=tokens: run_together(engine, [prompts.request(count, is_behind_head=False)]),
                lambda count=tokens: peer.do(do="prefill", tokens=count),
            )


def classify(arguments: argparse.Namespace) -> Iterator[Pair]:
    prompts = Prompts(32000, HEAD)
    ours, theirs = MESSAGE + TAIL + FORCED, MESSAGE + TAIL
    with engine_7b(arguments) as engine, llama_cpp(arguments) as peer:
        engine.pin(prompts.head, saved=arguments.cache / "versus-head.npz")
        peer.do(do="prefix", tokens=HEAD, file=str(arguments.cache / "versus-head.llama"))
        if arguments.only_heads:
            return
        for clients in arguments.clients:
            yield measure(
                f"classify, {clients} at once",
                "llama.cpp Q4_0",
                arguments.rounds,
                lambda count=clients: run_together(
                    engine, [prompts.request(ours, is_behind_head=True, num_rows=4) for _ in range(count)]
                ),
                lambda count=clients: peer.do(do="classify", tokens=theirs, requests=count),
            )


def product(arguments: argparse.Namespace) -> Iterator[Pair]:
    from benchmarks.versus_products import onnxruntime_product, torch_product  # noqa: PLC0415 - torch only where it is measured

    rng, ops, group = np.random.default_rng(0), CpuOps(arguments.threads), 128
    weight = Int4Weight(
        rng.integers(0, 16, (HIDDEN, HIDDEN), dtype=np.uint8),
        np.full((HIDDEN // group, HIDDEN), 8, np.uint8),
        rng.uniform(0.5, 1.5, (HIDDEN // group, HIDDEN)).astype(np.float32) / 300,
    )
    packed, probe = ops.pack_int4(weight), Probe()
    for tokens in (1, 64, 512):
        x = rng.standard_normal((tokens, HIDDEN), dtype=np.float32)
        ours = partial(ops.linear, x, packed)
        exact = x @ ((weight.codes.astype(np.float32) - 8) * np.repeat(weight.scales, group, axis=0))
        for build in (torch_product, onnxruntime_product):
            name, theirs, result = build(weight, x, arguments.threads)
            error = float(np.linalg.norm(result - exact) / np.linalg.norm(exact))
            rounds = 30 if tokens == 1 else 5
            yield measure(f"product, {tokens} tokens", f"{name} ({error:.1%})", rounds, ours, theirs)
        best, peak = 1e9, 0.0
        for _ in range(10):  # in turns: the processor's speed changes while others use it
            best = min(best, _timed(ours))
            peak = max(peak, probe.product_gops(arguments.threads, repeats=1))
        share = 2 * tokens * HIDDEN**2 / best / 1e9 / peak
        print(f"{'':34} {share:.0%} of the measured product peak of {peak:.0f} GOP/s, best of ten each")


def embedded(arguments: argparse.Namespace) -> Iterator[Pair]:
    from benchmarks.versus_products import transformers_verdict  # noqa: PLC0415 - torch only where it is measured

    num_head, num_new = 96, 36
    model = load_llama(Checkpoint.open(TINY), CpuOps(arguments.threads), None)
    prompts = Prompts(model.config.vocab_size, num_head)
    theirs = transformers_verdict(TINY, prompts.head, num_new, arguments.threads)
    with Engine(model, EngineConfig(num_blocks=1024, max_model_len=512)) as engine:
        engine.pin(prompts.head)
        for count, rounds in ((1, 60), (64, 8)):
            yield measure(
                f"embedded guard, {count} at once",
                "transformers, float32",
                rounds,
                lambda n=count: run_together(
                    engine, [prompts.request(num_new, is_behind_head=True, num_rows=4) for _ in range(n)]
                ),
                lambda n=count: theirs(n),
            )


CASES = {"prefill": prefill, "classify": classify, "product": product, "embedded": embedded}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512], help="of a prefill")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--checkpoint", type=Path, help="7B folder: make_checkpoint.py writes one")
    parser.add_argument("--gguf", type=Path, help="7B in Q4_0: llama_peer.py writes one")
    parser.add_argument("--peer-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/guardhouse-versus"), help="packed weights, heads")
    parser.add_argument(
        "--only-heads", action="store_true", help="classify: compute and save the heads, measure nothing"
    )
    arguments = parser.parse_args()
    if {"prefill", "classify"} & set(arguments.cases) and not (
        arguments.checkpoint and arguments.gguf and arguments.peer_python
    ):
        parser.error("prefill and classify need --checkpoint, --gguf and --peer-python")
    arguments.cache.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(*machine.values(), sep="\n", flush=True)
    print(f"{'work':34} {'peer':24} {'ours, ms':>11} {'theirs, ms':>11} {'ratio':>7}")
    pairs = [asdict(pair) for case in arguments.cases for pair in CASES[case](arguments)]
    print(json.dumps({"machine": machine, "threads": arguments.threads, "pairs": pairs}))


if __name__ == "__main__":
    main()
