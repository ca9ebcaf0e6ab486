"""The operations in plain numpy, float32: slow, and the specification that every other backend answers to.

Knows: the mathematics of ops/table.py, nothing about speed.
Never knows: native code, quantised activations.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.ops import kv_blocks
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


class ReferenceOps:
    """See `guardhouse.ops.table.Ops` for every method's meaning.

    A 4-bit weight keeps its codes (one byte each) and is dequantised at every call: exact, and small enough.
    """

    name = "reference"
    version = "1"
    is_deterministic = False  # BLAS may group sums differently for another number of rows

    def pack_int4(self, weight: Int4Weight) -> PackedLinear:
        num_inputs, num_outputs = weight.codes.shape
        arrays = {"codes": weight.codes, "zeros": weight.zeros, "scales": weight.scales}
        arrays |= {} if weight.bias is None else {"bias": weight.bias}
        return PackedLinear("int4", num_inputs, num_outputs, num_inputs // len(weight.scales), arrays)

    def pack_dense(self, weight: DenseWeight) -> PackedLinear:
        num_outputs, num_inputs = weight.weight.shape
        arrays = {"weight": weight.weight} | ({} if weight.bias is None else {"bias": weight.bias})
        return PackedLinear("dense", num_inputs, num_outputs, 0, arrays)

    def place(self, weight: PackedLinear) -> PackedLinear:
        return weight

    def free_bytes(self, largest: StepSize) -> int | None:  # noqa: ARG002  # all of it is the machine's own
        return None

    def array(self, values: NDArray[Any]) -> Float32:
        return np.ascontiguousarray(values, np.float32)

    def to_host(self, values: Float32) -> Float32:
        return values

    def allocate_cache(self, num_layers: int, num_blocks: int, layout: HeadLayout, block_size: int) -> KVCache:
        return kv_blocks.allocate_cache((num_layers, num_blocks), layout, block_size, np.float32)

    copy_block = staticmethod(kv_blocks.copy_block)
    export_blocks = staticmethod(kv_blocks.export_blocks)
    import_blocks = staticmethod(kv_blocks.import_blocks)

    def run_step(self, step: Step, compute: Callable[[Step], Float32 | None], key: Hashable | None) -> Float32 | None:  # noqa: ARG002  # nothing is recorded
        return compute(step)

    def embed(self, table: PackedLinear, token_ids: Int32) -> Float32:
        if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < table.out_features:
            raise IndexError("token id outside the embedding table")
        rows: Float32 = table.arrays["weight"][token_ids].astype(np.float32)
        return rows

    def rms_norm(self, x: Float32, weight: Float32, eps: float) -> Float32:
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        normed: Float32 = x / np.sqrt(mean_square + np.float32(eps)) * weight
        return normed

    def linear(self, x: Float32, weight: PackedLinear) -> Float32:
        matrix = (
            dequantize(weight) if weight.kind == "int4" else weight.arrays["weight"].astype(np.float32, copy=False).T
        )
        y: Float32 = x @ matrix
        bias = weight.arrays.get("bias")
        return y if bias is None else y + bias

    def rope_and_store(
        self, qkv: Float32, rope: RopeTable, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch
    ) -> Float32:
        heads = qkv.reshape(len(qkv), -1, layout.head_dim)  # [T, heads + 2 * kv_heads, head_dim], a view
        num_rotated = layout.num_heads + layout.num_kv_heads
        cos, sin = rope.cos[batch.positions][:, None], rope.sin[batch.positions][:, None]  # [T, 1, head_dim // 2]
        first, second = np.split(heads[:, :num_rotated], 2, axis=-1)
        heads[:, :num_rotated] = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        blocks, offsets = np.divmod(batch.slot_mapping, cache.block_size)
        cache.keys[layer, blocks, :, offsets] = heads[:, layout.num_heads : num_rotated]
        cache.values[layer, blocks, :, offsets] = heads[:, num_rotated:]
        return heads[:, : layout.num_heads]

    def attention(self, queries: Float32, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch) -> Float32:
        out = np.empty(queries.shape, np.float32)
        for seq, context_len in enumerate(batch.context_lens):
            span = slice(batch.query_starts[seq], batch.query_starts[seq + 1])
            blocks = batch.block_tables[seq, : -(-context_len // cache.block_size)]
            keys = _gather(cache.keys[layer], blocks, context_len)
            values = _gather(cache.values[layer], blocks, context_len)
            is_hidden = np.arange(context_len) > batch.positions[span, None]  # [queries, context]
            for head in range(layout.num_heads):
                kv_head = head // (layout.num_heads // layout.num_kv_heads)
                scores = queries[span, head] @ keys[kv_head].T * np.float32(layout.head_dim**-0.5)
                out[span, head] = _softmax(np.where(is_hidden, -np.inf, scores)) @ values[kv_head]
        return out.reshape(len(out), -1)

    def silu_mul(self, gate_up: Float32) -> Float32:
        gate, up = np.split(gate_up, 2, axis=-1)
        with np.errstate(over="ignore"):  # exp of a large -gate is infinity, and gate / infinity the right 0
            result: Float32 = gate / (1 + np.exp(-gate)) * up
        return result

    def add_(self, x: Float32, y: Float32) -> None:
        x += y

    def norm_linear(self, x: Float32, norm: Float32, eps: float, weight: PackedLinear) -> Float32:
        return self.linear(self.rms_norm(x, norm, eps), weight)

    def add_linear_(self, total: Float32, x: Float32, weight: PackedLinear) -> None:
        self.add_(total, self.linear(x, weight))

    def add_gated_linear_(self, total: Float32, gate_up: Float32, weight: PackedLinear) -> None:
        self.add_linear_(total, self.silu_mul(gate_up), weight)


def dequantize(weight: PackedLinear) -> Float32:
    """(codes - zeros) * scales as a float32 matrix [in, out]."""
    zeros, scales = (np.repeat(weight.arrays[name], weight.group_size, axis=0) for name in ("zeros", "scales"))
    centred = weight.arrays["codes"].astype(np.float32) - zeros.astype(np.float32)
    matrix: Float32 = centred * scales
    return matrix


def _gather(cache_layer: NDArray[Any], blocks: Int32, context_len: int) -> Float32:
    """[num_blocks, kv_heads, block_size, head_dim] -> [kv_heads, context_len, head_dim] of one sequence."""
    rows = cache_layer[blocks].swapaxes(0, 1).reshape(cache_layer.shape[1], -1, cache_layer.shape[-1])
    gathered: Float32 = rows[:, :context_len]
    return gathered


def _softmax(scores: Float32) -> Float32:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    normalised: Float32 = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return normalised
