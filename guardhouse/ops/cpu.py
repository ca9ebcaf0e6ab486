"""The operations on the processor: C kernels over numpy arrays, bit for bit the same for every batch and thread count.

Knows: which C function each operation is, and the arrays it returns.
Never knows: how the kernels work (native/), checkpoints, requests.

Int4 weights are multiplied in W4A8: activations are quantised to int8 per token and group of at most 128 inputs, codes
stay 4 bit, products and sums are integers within a group. Keys and values are cached as float16.
"""

import os
import weakref
from collections.abc import Callable, Hashable
from ctypes import CDLL, Structure, byref
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import BackendError
from guardhouse.ops import kv_blocks, native, native_arguments, panels
from guardhouse.ops.native_arguments import F16, F32, I32, address_of, checked_address
from guardhouse.ops.resident import into_memory
from guardhouse.ops.table import (
    Batch,
    DenseWeight,
    Float32,
    HeadLayout,
    Int4Weight,
    Int32,
    KVCache,
    PackedLinear,
    RopeTable,
    Step,
    StepSize,
)

Key = TypeVar("Key")
Value = TypeVar("Value")


class CpuOps:
    """See `guardhouse.ops.table.Ops` for every method's meaning.

    `isa` forces an instruction set (a key of `native.ISAS`) for tests; None takes the best one.
    What it notes about a packed weight is forgotten with that weight.
    """

    name = "cpu"
    version = f"w4a8-{native.KERNEL_VERSION}"
    is_deterministic = True

    def __init__(self, num_threads: int | None = None, isa: str | None = None) -> None:
        threads = num_threads if num_threads is not None else _available_processors()
        if threads < 1:
            raise BackendError(f"{threads} threads cannot compute anything")
        self._lib = native.load_library()
        self.num_threads = threads
        self.isa = isa if isa is not None else best_isa()
        self._runtime = self._lib.gh_runtime_create(threads, native.ISAS[self.isa])
        if not self._runtime:
            raise BackendError(f"cannot start {threads} threads with {self.isa} kernels on this machine")
        weakref.finalize(self, _destroy, self._lib, self._runtime, os.getpid())
        self._weights: dict[int, Structure] = {}  # by the weight's id; an entry leaves when its weight does
        self._heads = _Latest(native_arguments.heads)
        self._batch = _Latest(native_arguments.batch)
        self._cache_layers = _Latest(native_arguments.cache_layers)
        self._rope_tables = _Latest(native_arguments.rope)

    def pack_int4(self, weight: Int4Weight) -> PackedLinear:
        num_inputs, num_outputs = weight.codes.shape
        num_groups = len(weight.scales)
        assert num_inputs % num_groups == 0, "groups of unequal size"
        assert weight.codes.max(initial=0) <= 15, "a code above 15"
        assert weight.zeros.max(initial=0) <= 15, "a zero point above 15"
        group_size = panels.activation_group_size(num_inputs // num_groups)
        repeats = num_inputs // group_size // num_groups
        arrays: dict[str, NDArray[Any]] = {
            "panels": np.empty(panels.panel_shape(num_inputs, num_outputs, group_size), np.uint8),
            "zeros": panels.split_groups(weight.zeros.astype(np.uint8), repeats),
            "scales": panels.split_groups(panels.halved_if_exact(weight.scales), repeats),
        }
        arrays |= _bias_array(weight.bias)
        fields = native.Int4WeightStruct(num_inputs, num_outputs, group_size)
        codes = np.ascontiguousarray(weight.codes, np.uint8)
        _check(self._lib.gh_pack_int4(self._runtime, address_of(codes), byref(fields), address_of(arrays["panels"])))
        return PackedLinear("int4", num_inputs, num_outputs, group_size, arrays)

    def pack_dense(self, weight: DenseWeight) -> PackedLinear:
        """Takes the array as it is when it is contiguous float16 or float32: no copy, so it may be memory-mapped."""
        num_outputs, num_inputs = weight.weight.shape
        dtype = F16 if weight.weight.dtype == F16 else F32
        arrays = {"weight": np.ascontiguousarray(weight.weight, dtype)} | _bias_array(weight.bias)
        return PackedLinear("dense", num_inputs, num_outputs, 0, arrays)

    def place(self, weight: PackedLinear) -> PackedLinear:
        """Into this process's own memory, if it is mapped from a file."""
        return replace(weight, arrays={name: into_memory(array) for name, array in weight.arrays.items()})

    def free_bytes(self, largest: StepSize) -> int | None:  # noqa: ARG002  # all of it is the machine's own
        return None

    def array(self, values: NDArray[Any]) -> Float32:
        return np.array(values, np.float32, order="C")

    def to_host(self, values: Float32) -> Float32:
        return values

    def allocate_cache(self, num_layers: int, num_blocks: int, layout: HeadLayout, block_size: int) -> KVCache:
        return kv_blocks.allocate_cache((num_layers, num_blocks), layout, block_size, np.float16)

    copy_block = staticmethod(kv_blocks.copy_block)
    export_blocks = staticmethod(kv_blocks.export_blocks)
    import_blocks = staticmethod(kv_blocks.import_blocks)

    def run_step(self, step: Step, compute: Callable[[Step], Float32 | None], key: Hashable | None) -> Float32 | None:  # noqa: ARG002  # nothing is recorded
        return compute(step)

    def embed(self, table: PackedLinear, token_ids: Int32) -> Float32:
        assert table.kind == "dense", "only a dense table has rows"
        y = np.empty((len(token_ids), table.in_features), F32)
        ids = checked_address(token_ids, I32, (len(token_ids),))
        _check(self._lib.gh_embed(self._runtime, byref(self._weight(table)), ids, len(token_ids), address_of(y)))
        return y

    def rms_norm(self, x: Float32, weight: Float32, eps: float) -> Float32:
        num_tokens, width = x.shape
        y = np.empty((num_tokens, width), F32)
        source, scale = checked_address(x, F32, (num_tokens, width)), checked_address(weight, F32, (width,))
        _check(self._lib.gh_rms_norm(self._runtime, source, scale, eps, num_tokens, width, address_of(y)))
        return y

    def linear(self, x: Float32, weight: PackedLinear) -> Float32:
        num_tokens = len(x)
        y = np.empty((num_tokens, weight.out_features), F32)
        multiply = self._lib.gh_linear_int4 if weight.kind == "int4" else self._lib.gh_linear_dense
        source = checked_address(x, F32, (num_tokens, weight.in_features))
        _check(multiply(self._runtime, source, num_tokens, byref(self._weight(weight)), address_of(y)))
        return y

    def rope_and_store(
        self, qkv: Float32, rope: RopeTable, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch
    ) -> Float32:
        _check(
            self._lib.gh_rope_and_store(
                self._runtime,
                checked_address(qkv, F32, _qkv_shape(layout, batch)),
                byref(self._heads(layout)),
                byref(self._rope(rope, layout)),
                byref(self._cache(cache, layout)[layer]),
                byref(self._batch(batch)),
            )
        )
        return qkv  # rotated in place; `attention` steps over keys and values

    def attention(self, queries: Float32, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch) -> Float32:
        out = np.empty((len(queries), layout.num_heads * layout.head_dim), F32)
        _check(
            self._lib.gh_attention(
                self._runtime,
                checked_address(queries, F32, _qkv_shape(layout, batch)),
                byref(self._heads(layout)),
                byref(self._cache(cache, layout)[layer]),
                byref(self._batch(batch)),
                address_of(out),
            )
        )
        return out

    def silu_mul(self, gate_up: Float32) -> Float32:
        num_tokens, width = gate_up.shape
        assert width % 2 == 0, "gate and up differ in width"
        y = np.empty((num_tokens, width // 2), F32)
        source = checked_address(gate_up, F32, (num_tokens, width))
        _check(self._lib.gh_silu_mul(self._runtime, source, num_tokens, width // 2, address_of(y)))
        return y

    def add_(self, x: Float32, y: Float32) -> None:
        assert x.flags.writeable, "the sum cannot be written"
        target, source = checked_address(x, F32, x.shape), checked_address(y, F32, x.shape)
        _check(self._lib.gh_add(self._runtime, target, source, x.size))

    def norm_linear(self, x: Float32, norm: Float32, eps: float, weight: PackedLinear) -> Float32:
        if weight.kind != "int4":
            return self.linear(self.rms_norm(x, norm, eps), weight)
        num_tokens, width = len(x), weight.in_features
        y = np.empty((num_tokens, weight.out_features), F32)
        source, scale = checked_address(x, F32, (num_tokens, width)), checked_address(norm, F32, (width,))
        packed = byref(self._weight(weight))
        _check(self._lib.gh_norm_linear_int4(self._runtime, source, scale, eps, num_tokens, packed, address_of(y)))
        return y

    def add_linear_(self, total: Float32, x: Float32, weight: PackedLinear) -> None:
        if weight.kind == "int4":
            self._multiply_onto(self._lib.gh_add_linear_int4, total, (x, weight.in_features), weight)
        else:
            self.add_(total, self.linear(x, weight))

    def add_gated_linear_(self, total: Float32, gate_up: Float32, weight: PackedLinear) -> None:
        if weight.kind == "int4":
            self._multiply_onto(self._lib.gh_add_gated_linear_int4, total, (gate_up, 2 * weight.in_features), weight)
        else:
            self.add_linear_(total, self.silu_mul(gate_up), weight)

    def _multiply_onto(
        self, function: Callable[..., int], total: Float32, rows: tuple[Float32, int], weight: PackedLinear
    ) -> None:
        """`rows`: what is multiplied, and its width."""
        x, width = rows
        assert total.flags.writeable, "the sum cannot be written"
        source = checked_address(x, F32, (len(x), width))
        target = checked_address(total, F32, (len(x), weight.out_features))
        _check(function(self._runtime, source, len(x), byref(self._weight(weight)), target))

    def _weight(self, weight: PackedLinear) -> Structure:
        entry = self._weights.get(id(weight))
        if entry is None:
            entry = self._weights[id(weight)] = native_arguments.packed_weight(weight)
            weakref.finalize(weight, self._weights.pop, id(weight), None).atexit = False
        return entry

    def _cache(self, cache: KVCache, layout: HeadLayout) -> list[native.CacheStruct]:
        expected = (layout.num_kv_heads, cache.block_size, layout.head_dim)
        assert cache.keys.shape[2:] == expected, "a cache of another layout"
        return self._cache_layers(cache)

    def _rope(self, rope: RopeTable, layout: HeadLayout) -> native.RopeStruct:
        assert rope.cos.shape[1] * 2 == layout.head_dim, "a rope table for another head size"
        return self._rope_tables(rope)


class _Latest(Generic[Key, Value]):
    """Remembers what was built for the last key, by identity: all layers of a step share their batch and cache."""

    def __init__(self, build: Callable[[Key], Value]) -> None:
        self._build = build
        self._entry: tuple[Key, Value] | None = None

    def __call__(self, key: Key) -> Value:
        entry = self._entry
        if entry is None or entry[0] is not key:
            entry = self._entry = (key, self._build(key))
        return entry[1]


def _check(status: int) -> None:
    if status == native.OUT_OF_MEMORY:
        raise MemoryError("no memory for the kernels' scratch space")
    if status == native.INDEX_OUT_OF_RANGE:
        raise IndexError("a token id, position, slot or block outside its table")
    assert status == 0, f"unknown status {status}"


def _qkv_shape(layout: HeadLayout, batch: Batch) -> tuple[int, int]:
    return len(batch.positions), (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim


def _bias_array(bias: Float32 | None) -> dict[str, NDArray[Any]]:
    return {} if bias is None else {"bias": np.ascontiguousarray(bias, np.float32)}


def _available_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def best_isa() -> str:
    """The fastest kernels that this machine can run. Raises BackendError where none were compiled."""
    library = native.load_library()
    return next(isa for isa, number in native.ISAS.items() if library.gh_supports_isa(number))


def _destroy(library: CDLL, runtime: int, creator: int) -> None:
    """Stop the threads. A forked child has none to stop and must not wait for them."""
    if os.getpid() == creator:
        library.gh_runtime_destroy(runtime)
