"""What adapters cost: steps of the engine with rows under none, one or many of them, as a share of the plain step.

    python -m benchmarks.lora --model DIR [--threads 2] [--rounds 7] [--rank 16]

prefill    one sequence of 256 new tokens
decode     16 sequences of one new token each, under as many different adapters as said

Each round runs every kind of step once, one after another, so that what else the machine does hits all alike; the table
gives medians and their ratio to the step without adapters. Adapters are random, on every linear or on queries and values.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.layout import fused_linears
from guardhouse.model.llama import Llama, load_llama
from guardhouse.model.lora import Adapter, LoraPair
from guardhouse.ops import load_ops
from guardhouse.ops.table import Batch, DenseWeight

PREFILL_TOKENS = 256
DECODING = 16
CONTEXT = 64
BLOCK = 16


def random_adapter(model: Llama, rank: int, names: Sequence[str], seed: int) -> Adapter:
    """Of the size that one for these fused linears has, every part of them adapted."""
    generator = np.random.default_rng(seed)
    layers = []
    for layer in range(model.config.num_layers):
        pairs = {}
        for name, parts in fused_linears(model.config, layer).items():
            if name in names:
                ranks, outputs = rank * len(parts), sum(part.out_features for part in parts)
                down = generator.standard_normal((ranks, parts[0].in_features), np.float32) * np.float32(0.01)
                up = generator.standard_normal((outputs, ranks), np.float32) * np.float32(0.01)
                placed = (model.ops.place(model.ops.pack_dense(DenseWeight(part))) for part in (down, up))
                pairs[name] = LoraPair(*placed)
        layers.append(pairs)
    return Adapter(f"random {seed}", layers, 0)


def batch_of(num_seqs: int, num_new: int, num_cached: int) -> Batch:
    """`num_seqs` sequences with `num_new` new tokens each behind `num_cached` cached ones."""
    blocks_each = -(-(num_cached + num_new) // BLOCK)
    tables = np.arange(num_seqs * blocks_each, dtype=np.int32).reshape(num_seqs, blocks_each)
    positions = np.tile(np.arange(num_cached, num_cached + num_new), num_seqs)
    of_row = np.repeat(np.arange(num_seqs), num_new)
    slots = tables[of_row, positions // BLOCK] * BLOCK + positions % BLOCK
    starts = np.arange(num_seqs + 1, dtype=np.int32) * num_new
    lengths = np.full(num_seqs, num_cached + num_new, np.int32)
    return Batch(positions.astype(np.int32), slots.astype(np.int32), starts, lengths, tables)


def measure(model: Llama, rank: int, rounds: int) -> list[dict[str, object]]:
    every = [random_adapter(model, rank, ("qkv", "output", "gate_up", "down"), seed) for seed in range(8)]
    few = random_adapter(model, rank, ("qkv",), 99)
    prefill, decode = batch_of(1, PREFILL_TOKENS, 0), batch_of(DECODING, 1, CONTEXT)
    spread = {number: [every[index * number // DECODING] for index in range(DECODING)] for number in (1, 2, 8)}
    steps: list[tuple[str, str, Batch, Sequence[Adapter | None]]] = [
        ("prefill", "none", prefill, [None]),
        ("prefill", "one, qkv", prefill, [few]),
        ("prefill", "one, every linear", prefill, [every[0]]),
        ("decode", "none", decode, [None] * DECODING),
        ("decode", "one, qkv", decode, [few] * DECODING),
        *(("decode", f"{number}, every linear", decode, adapters) for number, adapters in spread.items()),
    ]
    cache = model.allocate_cache(DECODING * PREFILL_TOKENS // BLOCK, BLOCK)
    ids = np.arange(PREFILL_TOKENS, dtype=np.int32) + 300
    rows = np.array([0], np.int32)
    seconds: dict[tuple[str, str], list[float]] = {(kind, under): [] for kind, under, _, _ in steps}
    for _ in range(rounds + 1):
        for kind, under, batch, adapters in steps:
            begun = time.perf_counter()
            model.forward(ids[: len(batch.positions)], batch, cache, rows, adapters)
            seconds[kind, under].append(time.perf_counter() - begun)
    medians = {key: statistics.median(found[1:]) for key, found in seconds.items()}  # the first round warms up
    return [
        {
            "step": kind,
            "adapters": under,
            "ms": round(1000 * value, 2),
            "ratio": round(value / medians[kind, "none"], 3),
        }
        for (kind, under), value in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    model = load_llama(Checkpoint.open(options.model), load_ops("cpu", options.threads), None)
    rows = measure(model, options.rank, options.rounds)
    print(f"{'step':<8} {'adapters':<20} {'ms':>10} {'ratio':>8}")
    for row in rows:
        print(f"{row['step']:<8} {row['adapters']:<20} {row['ms']:>10} {row['ratio']:>8}")
    print(json.dumps({**describe_machine(), "rank": options.rank, "threads": options.threads, "rows": rows}))


if __name__ == "__main__":
    main()
