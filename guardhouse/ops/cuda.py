"""The operations on an NVIDIA GPU: torch tensors, Triton kernels (ops/gpu/).

Knows: which kernel each operation is, what lies on the device, how much room it has.
Never knows: how the kernels work, checkpoints, requests.

Torch is imported here and in ops/gpu/ alone, and only once the device is asked for. Int4 weights are multiplied in W4A8, as
on the CPU; dense ones in float16 with float32 sums. Hidden states are float32; what comes of a norm and its product
(queries, keys, values, gate and up) is float16, half the bytes to write and read, and so is the cache. Packed weights stay
numpy arrays (memory-mapped from the cache on disk) until `place` copies them to the device.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from guardhouse.errors import BackendError
from guardhouse.ops.gpu import activations, attention, dense, rows, w4a8
from guardhouse.ops.gpu.memory import DeviceMemory, ReadMemory, read_cuda_memory
from guardhouse.ops.gpu.steps import CudaGraphRecorder, Inputs, Recorder, Steps, step_arrays
from guardhouse.ops.panels import activation_group_size, halved_if_exact
from guardhouse.ops.table import (
    Batch,
    DenseWeight,
    HeadLayout,
    Int4Weight,
    Int32,
    KVCache,
    PackedLinear,
    RopeTable,
    Step,
    StepSize,
)

MIN_CAPABILITY = (8, 0)  # asynchronous copies and int8 products, which the kernels are made of


class CudaOps:
    """See `guardhouse.ops.table.Ops` for every method's meaning.

    `device`: "cuda"; for tests "cpu", under Triton's interpreter, or "meta", where nothing is computed. `recorder` and
    `memory` stand in for CUDA graphs and the device's memory there. Not `is_recorded`: every step is launched as it comes.
    """

    name = "cuda"
    version = "w4a8-3"
    is_deterministic = True  # seen on an H100: benchmarks/cuda.py asks for it each time

    def __init__(
        self,
        device: str = "cuda",
        recorder: Recorder | None = None,
        memory: ReadMemory | None = None,
        *,
        is_recorded: bool = True,
    ) -> None:
        if device == "cuda":
            require_device()
            memory = read_cuda_memory(torch.device(device))
            recorder = CudaGraphRecorder() if recorder is None and is_recorded else recorder
        self._device = torch.device(device)
        self._memory = None if memory is None else DeviceMemory(memory)
        self._steps = Steps(self._device, recorder)
        self._latest: tuple[Batch, Batch | None, Inputs] | None = None

    def pack_int4(self, weight: Int4Weight) -> PackedLinear:
        num_inputs, num_outputs = weight.codes.shape
        group_size = activation_group_size(num_inputs // len(weight.scales))
        scales = halved_if_exact(weight.scales)
        if group_size not in w4a8.GROUP_SIZES or scales.dtype != np.float16:
            return self.pack_dense(DenseWeight(_dequantize(weight).astype(np.float16), weight.bias))
        repeats = num_inputs // group_size // len(scales)
        zeros, scales = np.repeat(weight.zeros, repeats, axis=0), np.repeat(scales, repeats, axis=0)
        arrays = w4a8.pack(weight.codes, zeros, scales, group_size) | _bias_array(weight.bias)
        return PackedLinear("int4", num_inputs, num_outputs, group_size, arrays)

    def pack_dense(self, weight: DenseWeight) -> PackedLinear:
        num_outputs, num_inputs = weight.weight.shape
        arrays = {"weight": np.ascontiguousarray(weight.weight, np.float16)} | _bias_array(weight.bias)
        return PackedLinear("dense", num_inputs, num_outputs, 0, arrays)

    def place(self, weight: PackedLinear) -> PackedLinear:
        num_bytes = sum(array.nbytes for array in weight.arrays.values())
        if self._memory is not None:
            self._memory.place(num_bytes)
        try:
            return replace(weight, arrays={name: self._upload(array) for name, array in weight.arrays.items()})
        except torch.cuda.OutOfMemoryError as error:  # another process was faster, or memory is in pieces
            assert self._memory is not None
            raise self._memory.too_small(num_bytes) from error

    def free_bytes(self, largest: StepSize) -> int | None:
        return None if self._memory is None else self._memory.left_for_cache(largest)

    def array(self, values: NDArray[Any]) -> Tensor:
        return self._upload(np.array(values, np.float32, order="C"))

    def to_host(self, values: Tensor) -> NDArray[np.float32]:
        """The step's one synchronisation."""
        if self._device.type == "cuda":
            pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            pinned.copy_(values, non_blocking=True)
            torch.cuda.current_stream(self._device).synchronize()
            values = pinned
        host: NDArray[np.float32] = values.cpu().numpy()
        return host

    def allocate_cache(self, num_layers: int, num_blocks: int, layout: HeadLayout, block_size: int) -> KVCache:
        shape = (num_layers, num_blocks, layout.num_kv_heads, block_size, layout.head_dim)
        try:
            keys, values = (torch.zeros(shape, dtype=torch.float16, device=self._device) for _ in range(2))
        except torch.cuda.OutOfMemoryError as error:
            raise BackendError("the KV cache does not fit the GPU's memory: lower kv_cache_mib") from error
        return KVCache(keys, values, block_size)

    def copy_block(self, cache: KVCache, source: int, target: int) -> None:
        for array in (cache.keys, cache.values):
            array[:, target] = array[:, source]

    def export_blocks(self, cache: KVCache, layer: int, blocks: Int32) -> tuple[NDArray[Any], NDArray[Any]]:
        index = self._upload(blocks.astype(np.int64))
        return cache.keys[layer, index].cpu().numpy(), cache.values[layer, index].cpu().numpy()

    def import_blocks(
        self, cache: KVCache, layer: int, blocks: Int32, keys: NDArray[Any], values: NDArray[Any]
    ) -> None:
        index = self._upload(blocks.astype(np.int64))
        cache.keys[layer, index], cache.values[layer, index] = self._upload(keys), self._upload(values)

    def run_step(self, step: Step, compute: Callable[[Step], Tensor | None], key: Hashable | None) -> Tensor | None:
        """As a CUDA graph, once steps of this key, cache and shape came before. Waits only if there is no result."""

        def body(inputs: Inputs) -> Tensor | None:
            self._latest = step.batch, step.asked, inputs
            return compute(replace(step, token_ids=inputs.arrays["token_ids"], rows=inputs.arrays["rows"]))

        arrays, shape = step_arrays(step)
        result = self._steps.run(arrays, shape, body, None if key is None else (key, id(step.cache)))
        if result is None and self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # else the next step would be charged for this one
        return result

    def embed(self, table: PackedLinear, token_ids: Tensor | Int32) -> Tensor:
        assert table.kind == "dense", "only a dense table has rows"
        weight: Tensor = table.arrays["weight"]
        ids = token_ids if isinstance(token_ids, Tensor) else self._upload(token_ids)
        return weight.index_select(0, ids).float()

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return rows.rms_norm(x, weight, eps)

    def linear(self, x: Tensor, weight: PackedLinear) -> Tensor:
        if weight.kind == "int4":
            return _multiply(activations.quantize(x, weight.group_size), weight)
        return dense.multiply(x, weight.arrays["weight"], weight.arrays.get("bias"))

    def rope_and_store(
        self, qkv: Tensor, rope: RopeTable, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch
    ) -> Tensor:
        inputs, is_asked = self._inputs(batch, cache)
        assert not is_asked, "the last layer's keys are those of the whole batch"
        where = inputs.arrays["positions"], inputs.arrays["slot_mapping"]
        layer_cache = cache.keys[layer], cache.values[layer]
        scale = attention.query_scale(layout.head_dim)
        return rows.rope_and_store(qkv, (rope.cos, rope.sin), where, layer_cache, layout.num_heads, scale)

    def attention(self, queries: Tensor, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch) -> Tensor:
        inputs, is_asked = self._inputs(batch, cache)
        prefix, shape = ("asked_", inputs.shape.asked_work) if is_asked else ("", inputs.shape.work)
        where = tuple(inputs.arrays[prefix + name] for name in ("positions", "span_counts", "items", "walks"))
        layer_cache = cache.keys[layer], cache.values[layer]
        where = *where, inputs.arrays["block_tables"]
        return attention.attend(queries, layer_cache, where, layout.num_heads, shape.max_spans)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        return rows.silu_mul(gate_up)

    def add_(self, x: Tensor, y: Tensor) -> None:
        x.add_(y)

    def norm_linear(self, x: Tensor, norm: Tensor, eps: float, weight: PackedLinear) -> Tensor:
        if weight.kind == "int4" and weight.group_size == rows.NORM_COLUMNS:
            return _multiply(activations.quantize_normed(x, norm, eps), weight, dtype=torch.float16)
        return self.linear(self.rms_norm(x, norm, eps), weight)

    def add_linear_(self, total: Tensor, x: Tensor, weight: PackedLinear) -> None:
        if weight.kind == "int4":
            _multiply(activations.quantize(x, weight.group_size), weight, onto=total)
        else:
            self.add_(total, self.linear(x, weight))

    def add_gated_linear_(self, total: Tensor, gate_up: Tensor, weight: PackedLinear) -> None:
        if weight.kind == "int4":
            _multiply(activations.quantize_gated(gate_up, weight.group_size), weight, onto=total)
        else:
            self.add_linear_(total, self.silu_mul(gate_up), weight)

    def _upload(self, values: NDArray[Any]) -> Tensor:
        """A copy on the device. Read-only (memory-mapped) arrays are only read."""
        if not values.flags.writeable:
            values = values.copy()
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _inputs(self, batch: Batch, cache: KVCache) -> tuple[Inputs, bool]:
        """What all layers ask of their batch, and whether it is the asked one: sent with the step, found by identity.

        Layers that run outside a step bring their batch themselves.
        """
        if self._latest is None or (batch is not self._latest[0] and batch is not self._latest[1]):
            nothing = np.zeros(len(batch.positions), np.int32)
            arrays, shape = step_arrays(Step(nothing, nothing[:0], batch, None, cache))
            self._latest = batch, None, self._steps.send(arrays, shape)
        whole, _, inputs = self._latest
        return inputs, batch is not whole


def require_device() -> None:
    """Raise BackendError where torch cannot compute on a GPU here, saying what is missing and what to do."""
    if torch.version.cuda is None:
        raise BackendError(f"torch {torch.__version__} was built without CUDA: install PyPI's build for Linux")
    if not torch.cuda.is_available():
        versions = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
        raise BackendError(f"{versions} finds no GPU: see with nvidia-smi whether its driver is loaded and new enough")
    capability = torch.cuda.get_device_capability(0)
    if capability < MIN_CAPABILITY:
        found, needed = (".".join(map(str, each)) for each in (capability, MIN_CAPABILITY))
        raise BackendError(f"the GPU's compute capability {found} is below {needed} (Ampere): use --device cpu")


def describe_device() -> str:
    """Name, memory, torch and Triton, for `doctor`. Raises BackendError where there is no device."""
    require_device()
    properties = torch.cuda.get_device_properties(0)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    capability = f"compute capability {properties.major}.{properties.minor}"
    versions = f"torch {torch.__version__} for CUDA {torch.version.cuda}, Triton {triton.__version__}"
    return f"{properties.name}, {memory}, {capability}, {versions}"


def _multiply(
    x: activations.Quantized, weight: PackedLinear, onto: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    plan = w4a8.plan_product(x.num_tokens, weight.out_features)
    return w4a8.multiply(x, weight.arrays, weight.out_features, plan, onto, dtype)


def _dequantize(weight: Int4Weight) -> NDArray[np.float32]:
    """As [out, in]."""
    repeats = len(weight.codes) // len(weight.scales)
    zeros, scales = np.repeat(weight.zeros, repeats, axis=0), np.repeat(weight.scales, repeats, axis=0)
    matrix: NDArray[np.float32] = ((weight.codes.astype(np.float32) - zeros) * scales).T
    return matrix


def _bias_array(bias: NDArray[np.float32] | None) -> dict[str, NDArray[Any]]:
    return {} if bias is None else {"bias": np.ascontiguousarray(bias, np.float32)}
