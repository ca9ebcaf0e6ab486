"""Correctness, kernels and whole verdicts on a GPU, in one run of a few minutes.

    python -m benchmarks.cuda --model ../shared/data/llamaguard-7b [--rounds 20] [--requests 512]

`--model`: a folder with a checkpoint's configuration, tokenizer and template. Weights are not read: random ones of that
shape are made on the device (random_model.py), which takes seconds. First the operations
are compared with the numpy reference; then copy bandwidth and product rates of this device are measured with plain torch,
as ceilings; then the kernels at the model's shapes beside them; then verdicts and decoding through the engine, and a plain
torch bfloat16 model of the same shape with SDPA, in the same run. Prints tables and, as the last line, the same as JSON.

It needs a device. `--check` runs the comparison alone, on any machine, under Triton's interpreter.
"""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

from benchmarks.engine import Bench, measure_decode, measure_verdicts, report
from benchmarks.machine import describe_machine
from benchmarks.random_model import random_linear, random_llama
from guardhouse.config import Settings
from guardhouse.engine.engine import Engine
from guardhouse.guard.prompt import FrameStore
from guardhouse.guard.sizing import engine_config, window_of
from guardhouse.model.checkpoint import read_config
from guardhouse.model.llama_config import LlamaConfig
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops.cuda import CudaOps, describe_device
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Batch, HeadLayout, Int4Weight, KVCache, RopeTable

Row = dict[str, object]


def median_s(calls: Sequence[Callable[[], object]], rounds: int) -> float:
    """Device time of one call. All of them are recorded as one CUDA graph: launches from Python take longer than kernels."""
    for call in calls:
        call(), call()  # the first may compile
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(rounds + 1):  # the first warms up
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times[1:])


def random_int4(rng: np.random.Generator, num_inputs: int, num_outputs: int, group: int = 128) -> Int4Weight:
    shape = (num_inputs // group, num_outputs)
    codes = rng.integers(0, 16, (num_inputs, num_outputs), dtype=np.uint8)
    return Int4Weight(codes, rng.integers(0, 16, shape, dtype=np.uint8), rng.uniform(0.001, 0.01, shape).astype("f4"))


def check(device: str) -> dict[str, float]:
    """Relative error of each operation against the reference; raises where it is beyond what 8 and 11 bits explain."""
    rng, ops, reference = np.random.default_rng(0), CudaOps(device), ReferenceOps()
    weight = random_int4(rng, 512, 256)
    x = rng.standard_normal((20, 512), dtype=np.float32)
    found = ops.to_host(ops.linear(ops.array(x), ops.place(ops.pack_int4(weight))))
    errors = {"w4a8 linear": relative_error(found, reference.linear(x, reference.pack_int4(weight)))}
    alone = ops.to_host(ops.linear(ops.array(x[3:4]), ops.place(ops.pack_int4(weight))))
    errors["w4a8 alone against batched"] = float(np.abs(alone[0] - found[3]).max())
    errors["attention"] = relative_error(*(attend_once(each) for each in (ops, reference)))
    limits = {"w4a8 linear": 0.02, "w4a8 alone against batched": 0.0, "attention": 0.005}
    for name, limit in limits.items():
        assert errors[name] <= limit, f"{name}: {errors[name]} is above {limit}"
    return errors


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def attend_once(ops: CudaOps | ReferenceOps) -> np.ndarray:  # type: ignore[type-arg]
    layout, num_tokens = HeadLayout(2, 1, 64), 40
    qkv, batch, rope = prompt_batch(layout, num_tokens, num_tokens)
    cache = ops.allocate_cache(1, 3, layout, 16)
    tables = RopeTable(ops.array(rope.cos), ops.array(rope.sin))
    queries = ops.rope_and_store(ops.array(qkv), tables, layout, cache, 0, batch)
    return np.asarray(ops.to_host(ops.attention(queries, layout, cache, 0, batch)))


def prompt_batch(layout: HeadLayout, num_tokens: int, context: int) -> tuple[np.ndarray, Batch, RopeTable]:  # type: ignore[type-arg]
    """The last `num_tokens` of one sequence of `context` tokens in blocks of 16."""
    width = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    qkv = np.random.default_rng(1).standard_normal((num_tokens, width), dtype=np.float32)
    positions = np.arange(context - num_tokens, context, dtype=np.int32)
    tables = np.arange(-(-context // 16), dtype=np.int32)[None]
    batch = Batch(positions, positions, np.array([0, num_tokens], "i4"), np.array([context], "i4"), tables)
    angles = np.outer(np.arange(context), 1e4 ** -(np.arange(layout.head_dim // 2) * 2 / layout.head_dim))
    return qkv, batch, RopeTable(np.cos(angles).astype("f4"), np.sin(angles).astype("f4"))


def ceilings(rounds: int) -> dict[str, float]:
    """What torch's own kernels reach here: copy GB/s (read and write), TFLOP/s in bfloat16 and fp8, TOP/s in int8."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.numel() / median_s([lambda: target.copy_(source)], rounds) / 1e9
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bf16 = 2 * size**3 / median_s([lambda: a @ b], rounds) / 1e12
    c, d = (torch.randint(-127, 127, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
    int8 = 2 * size**3 / median_s([lambda: torch._int_mm(c, d.T)], rounds) / 1e12
    found = {"copy_gb_s": copy, "bf16_tflop_s": bf16, "int8_top_s": int8}
    if torch.cuda.get_device_capability() >= (8, 9):  # from there on tensor cores take fp8
        e, f = (each.to(torch.float8_e4m3fn) for each in (a, b))
        one = torch.ones((), device="cuda")
        product = partial(torch._scaled_mm, e, f.T, one, one, out_dtype=torch.bfloat16)
        found["fp8_tflop_s"] = 2 * size**3 / median_s([product], rounds) / 1e12
    return {name: round(value, 1) for name, value in found.items()}


def kernel_rows(config: LlamaConfig, ceiling: dict[str, float], rounds: int) -> list[Row]:
    ops, generator = CudaOps(), torch.Generator("cuda")
    hidden, intermediate = config.hidden_size, config.intermediate_size
    rows: list[Row] = []
    for name, inputs, outputs in (("gate_up", hidden, 2 * intermediate), ("down", intermediate, hidden)):
        # As many as fill the L2 cache several times: in a model no weight is there when its turn comes.
        weights = [random_linear(generator, inputs, outputs) for _ in range(8)]
        num_bytes = sum(array.numel() * array.element_size() for array in weights[0].arrays.values())
        for tokens in (1, 16, 128, 512, 2048):
            x = torch.randn(tokens, inputs, device="cuda")
            seconds = median_s([partial(ops.linear, x, weight) for weight in weights], rounds)
            tops = 2 * tokens * inputs * outputs / seconds / 1e12
            gbs = num_bytes / seconds / 1e9
            share = max(tops / ceiling["int8_top_s"], gbs / ceiling["copy_gb_s"])
            rows.append(kernel_row(f"{name} w4a8 {inputs}x{outputs}", tokens, seconds, tops, gbs, share))
    layout = HeadLayout(config.num_heads, config.num_kv_heads, config.head_dim)
    for tokens in (1, 128, 512):
        call, flops, num_bytes = attention_call(ops, layout, tokens, 1024)
        seconds = median_s([call] * 8, rounds)
        tflops, gbs = flops / seconds / 1e12, num_bytes / seconds / 1e9
        share = max(tflops / ceiling["bf16_tflop_s"], gbs / ceiling["copy_gb_s"])
        rows.append(kernel_row("attention, context 1024", tokens, seconds, tflops, gbs, share))
    return rows


def kernel_row(name: str, tokens: int, seconds: float, tops: float, gbs: float, share: float) -> Row:
    numbers = {"us": seconds * 1e6, "top_s": tops, "gb_s": gbs, "share": share}
    return {"kernel": name, "tokens": tokens, **{key: round(value, 3) for key, value in numbers.items()}}


def attention_call(
    ops: CudaOps, layout: HeadLayout, num_tokens: int, context: int
) -> tuple[Callable[[], object], float, float]:
    """The call, its floating-point operations, the bytes of keys and values that it reads."""
    qkv, batch, _ = prompt_batch(layout, num_tokens, context)
    cache: KVCache = ops.allocate_cache(1, context // 16, layout, 16)
    queries = ops.array(qkv[:, : layout.num_heads * layout.head_dim]).half()
    pairs = float(batch.positions.sum() + num_tokens)
    num_bytes = 2.0 * cache.keys.numel() * cache.keys.element_size()
    flops = 4.0 * pairs * layout.num_heads * layout.head_dim
    return lambda: ops.attention(queries, layout, cache, 0, batch), flops, num_bytes


def plain_torch(config: LlamaConfig, num_tokens: int, rounds: int) -> Row:
    """A bfloat16 model of random weights with SDPA over the whole prompt: what one would write without this project."""
    hidden, head_dim = config.hidden_size, config.head_dim
    widths = {
        "qkv": (hidden, (config.num_heads + 2 * config.num_kv_heads) * head_dim),
        "output": (config.num_heads * head_dim, hidden),
        "gate_up": (hidden, 2 * config.intermediate_size),
        "down": (config.intermediate_size, hidden),
    }

    def random(out: int, inside: int) -> Tensor:
        return torch.randn(out, inside, device="cuda", dtype=torch.bfloat16) * inside**-0.5

    layers = [{name: random(out, inside) for name, (inside, out) in widths.items()} for _ in range(config.num_layers)]
    head = random(config.vocab_size, hidden)
    x = torch.randn(1, num_tokens, hidden, device="cuda", dtype=torch.bfloat16)

    @torch.inference_mode()
    def forward() -> Tensor:
        y = x
        for layer in layers:
            y = y + functional.linear(_sdpa(functional.rms_norm(y, (hidden,)), layer["qkv"], config), layer["output"])
            gate, up = functional.linear(functional.rms_norm(y, (hidden,)), layer["gate_up"]).chunk(2, dim=-1)
            y = y + functional.linear(functional.silu(gate) * up, layer["down"])
        return functional.linear(y[:, -4:], head)

    seconds = median_s([forward], max(3, rounds // 4))
    return {"what": "plain torch bfloat16 + SDPA, whole prompt", "tokens": num_tokens, "ms": round(seconds * 1e3, 3)}


def _sdpa(x: Tensor, qkv: Tensor, config: LlamaConfig) -> Tensor:
    heads = functional.linear(x, qkv).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
    query, key, value = heads.split([config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
    is_grouped = config.num_kv_heads != config.num_heads
    out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped)
    return out.transpose(1, 2).flatten(2)


def open_random_bench(folder: Path, settings: Settings) -> Bench:
    """An engine on the device, with random weights of the folder's shape."""
    config, ops = read_config(folder), CudaOps()
    window = window_of(config, settings)
    llama = random_llama(config, ops, window)
    engine = Engine(llama, engine_config(config, settings, window, ops))
    return Bench(engine, FrameStore(Tokenizer.load(folder)).frame("user"), config.vocab_size)


def differing_verdicts(bench: Bench) -> int:
    """Of 24 verdicts asked for beside 48 others and then alone: those whose logits have other bits. Should be 0."""
    lengths = [1 + 7 * index % 150 for index in range(72)]
    requests = [bench.verdict(length) for length in lengths]
    together = [future.result() for future in [bench.engine.submit(request) for request in requests]]
    alone = [bench.engine.submit(request).result() for request in requests[::3]]
    return sum(not np.array_equal(one.logits, two.logits) for one, two in zip(together[::3], alone, strict=True))


def measure_model(arguments: argparse.Namespace) -> dict[str, object]:
    """Whole verdicts and decoding, through the engine."""
    began = time.perf_counter()
    sizes = {"max_num_batched_tokens": arguments.batched_tokens, "max_num_seqs": arguments.sequences}
    bench = open_random_bench(arguments.model, Settings(max_queue=1024, **sizes))
    print(f"model ready after {time.perf_counter() - began:.1f} s")
    with bench.engine:
        bench.seconds([bench.verdict(60)])
        num_differing = differing_verdicts(bench)
        print(f"{num_differing} of 24 verdicts have other bits alone than among 71 others\n")
        cases = [(length, clients) for length in (20, 60, 200) for clients in (1, 8, 64, 256)]
        verdicts = report([measure_verdicts(bench, *case, max(arguments.requests, case[1])) for case in cases])
        decode = report([measure_decode(bench, sequences, 64) for sequences in (1, 8, 64)])
    return {"differing_verdicts": num_differing, "verdicts": verdicts, "decode": decode}


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    config = read_config(arguments.model)
    ceiling = ceilings(arguments.rounds)
    print(*(f"{name} {value}" for name, value in ceiling.items()), sep="  ", end="\n\n")
    kernels = kernel_rows(config, ceiling, arguments.rounds)
    table(kernels)
    results: dict[str, object] = {"ceilings": ceiling, "kernels": kernels, **measure_model(arguments)}
    gc.collect()
    torch.cuda.empty_cache()  # the KV cache took what there was
    plain = [plain_torch(config, tokens, arguments.rounds) for tokens in (128, 957)]
    table(plain)
    return results | {"plain_torch": plain}


def table(rows: list[Row]) -> None:
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]}
    for cells in [dict(zip(widths, widths, strict=True)), *rows]:
        print("  ".join(f"{cells[name]!s:>{width}}" for name, width in widths.items()))
    print()


def main() -> None:
    """Parse, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batched-tokens", type=int, default=2048, help="tokens per step at most")
    parser.add_argument("--sequences", type=int, default=256, help="that run at once")
    parser.add_argument("--requests", type=int, default=512, help="per row of the verdicts table")
    parser.add_argument("--check", action="store_true", help="compare with the reference only")
    arguments = parser.parse_args()
    if not arguments.check and arguments.model is None:
        parser.error("name a checkpoint folder with --model, or say --check")
    machine = describe_machine() | ({} if arguments.check else {"device": describe_device()})
    print(*machine.values(), sep="\n")
    errors = check("cuda" if torch.cuda.is_available() else "cpu")
    print(*(f"{name} {value:.2e}" for name, value in errors.items()), sep="  ", end="\n\n")
    results = {} if arguments.check else measure(arguments)
    print(json.dumps({"machine": machine, "errors": errors, **results}))


if __name__ == "__main__":
    main()
