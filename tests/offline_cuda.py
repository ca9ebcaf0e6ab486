"""Compile what a step of a 7B model launches, for a GPU that need not be there; one JSON line per kernel.

    python tests/offline_cuda.py 90             compute capability 9.0: H100, H200

Tensors are on torch's meta device: they have shapes, types and addresses of zero, and nothing is computed. Each launch goes
through Triton's own specialisation and down to machine code by the ptxas that comes with Triton, but is not launched. So
what only the compiler finds (types, shapes of products, shared memory, registers) is found where no GPU is.

Run it as a process of its own: Triton's interpreter and its compiler cannot be used in one.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from guardhouse.model.llama import Layer, Llama, Weights
from guardhouse.model.llama_config import LlamaConfig
from guardhouse.ops.cuda import CudaOps
from guardhouse.ops.table import Batch, PackedLinear, RopeTable

PRODUCTS = ("HMMA", "IMMA", "HGMMA", "IGMMA")  # of tensor cores
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
CONFIG = LlamaConfig(
    32000, 4096, 11008, 2, 32, 32, 128, 1e-5, 1e4, None, 4096, False, False, False, None, 1, (2,)
)  # two of the 32 layers; the others are the same


class AbsentGpu:
    """The part of Triton's driver that is asked before a kernel is compiled."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class MetaOps(CudaOps):
    def to_host(self, values: torch.Tensor) -> Any:
        return np.zeros(values.shape, np.float32)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def int4(inputs: int, outputs: int, group: int = 128) -> PackedLinear:
    padded = -(-outputs // 64) * 64
    arrays = {
        "codes": empty(padded // 64, inputs // group, 64, group // 2, dtype=torch.uint8),
        "affine": empty(padded // 64, inputs // group, 64, dtype=torch.int32),
    }
    return PackedLinear("int4", inputs, outputs, group, arrays)


def model(ops: CudaOps) -> Llama:
    hidden, intermediate = CONFIG.hidden_size, CONFIG.intermediate_size
    linears = {
        "qkv": int4(hidden, 3 * hidden),
        "output": int4(hidden, hidden),
        "gate_up": int4(hidden, 2 * intermediate),
        "down": int4(intermediate, hidden),
    }
    table = PackedLinear(
        "dense", hidden, CONFIG.vocab_size, 0, {"weight": empty(CONFIG.vocab_size, hidden, dtype=torch.half)}
    )
    layers = [Layer(empty(hidden), empty(hidden), linears)] * CONFIG.num_layers
    rope = RopeTable(empty(4096, 64), empty(4096, 64))
    return Llama(CONFIG, ops, Weights(table, layers, empty(hidden), table, rope), 4096)


def run_steps(ops: CudaOps) -> None:
    llama = model(ops)
    cache = llama.allocate_cache(4096, 16)
    for num_seqs, num_new, rows in ((1, 1, [0]), (1, 127, [123, 126]), (5, 120, [119]), (1, 64, [])):
        starts = np.arange(num_seqs + 1, dtype=np.int32) * num_new
        positions = np.tile(np.arange(830, 830 + num_new, dtype=np.int32), num_seqs)
        tables = np.arange(num_seqs * 60, dtype=np.int32).reshape(num_seqs, 60)
        batch = Batch(positions, positions, starts, np.full(num_seqs, 830 + num_new, np.int32), tables)
        llama.forward(np.zeros(len(positions), np.int32), batch, cache, np.array(rows, np.int32))
    ops.silu_mul(empty(4, 2 * CONFIG.intermediate_size))  # by itself only where there are adapters
    for tokens in (1, 70):
        ops.linear(empty(tokens, 256), int4(256, 768, group=64))  # the embedded guard's groups


def describe(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
        code = subprocess.run([TOOLS / "nvdisasm", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage.stdout)[0]
    lines = re.findall(r"^(?:\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_]+)(.*)|\.(L_x_\d+):)", code, re.MULTILINE)
    count = Counter(name for name, _, _ in lines if name)
    return {
        "kernel": kernel.metadata.name,
        "file": Path(kernel.src.fn.fn.__code__.co_filename).stem,
        "warps": kernel.metadata.num_warps,
        "shared_bytes": kernel.metadata.shared,
        "registers": int(registers),
        "spilled_bytes": int(stack),
        "spills_in_products": spills_in_products(lines),
        "instructions": sum(count.values()),
        "products": sum(count[name] for name in PRODUCTS),
    }


def spills_in_products(lines: list[tuple[str, str, str]]) -> int:
    """Registers that go to memory or come from it in innermost loops with products. Elsewhere they cost next to nothing."""
    labels = {label: place for place, (_, _, label) in enumerate(lines) if label}
    targets = [(place, re.search(r"L_x_\d+", rest)) for place, (name, rest, _) in enumerate(lines) if name == "BRA"]
    loops = [(labels[to[0]], place) for place, to in targets if to and labels[to[0]] < place]
    bodies = {loop: [name for name, _, _ in lines[slice(*loop)]] for loop in loops}
    with_products = [loop for loop, body in bodies.items() if set(PRODUCTS) & set(body)]
    innermost = [
        one for one in with_products if not any(one[0] <= start < end < one[1] for start, end in with_products)
    ]
    assert innermost or not set(PRODUCTS) & {name for name, _, _ in lines}, "products outside loops"
    return sum(name in {"STL", "LDL"} for loop in innermost for name in bodies[loop])


def main() -> None:
    found: dict[str, Any] = {}
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, **options: Any) -> Any:
        kernel = run(self, *arguments, **{**options, "warmup": True})
        found[kernel.hash] = kernel
        return kernel

    driver.set_active(AbsentGpu(int(sys.argv[1])))
    JITFunction.run = compile_only
    run_steps(MetaOps("meta"))
    for kernel in found.values():
        sys.stdout.write(json.dumps(describe(kernel)) + "\n")


if __name__ == "__main__":
    main()
