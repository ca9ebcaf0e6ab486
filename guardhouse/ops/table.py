"""The operations of a Llama forward pass: signatures, shapes and units. The contract of a backend.

Knows: arrays and how a ragged batch is laid out over a paged KV cache.
Never knows: checkpoints, files, requests, text.

`reference.py` (numpy, float32) is the specification; every other backend answers to it. Arrays between operations are
float32, C-contiguous, and belong to the backend (numpy for `reference` and `cpu`, torch tensors for `cuda`).

Invariant of a backend that calls itself deterministic: row t of every result depends only on row t of the inputs and,
for attention, on the cached keys and values of its own sequence at positions <= its own. Not on the other rows, on how
the batch was cut, or on the number of threads.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = Any  # a backend's own float32 array
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Int4Weight:
    """AWQ's affine 4-bit form, unpacked: y = x @ ((codes - zeros) * scales) + bias, zeros, scales repeated per group.

    Group g covers input rows g * group_size .. (g + 1) * group_size - 1, with group_size = in // groups.
    """

    codes: NDArray[np.uint8]  # [in, out], 0..15
    zeros: NDArray[np.uint8]  # [groups, out], 0..15
    scales: Float32  # [groups, out]
    bias: Float32 | None = None  # [out]


@dataclass(frozen=True, slots=True)
class DenseWeight:
    """y = x @ weight.T + bias, as Hugging Face checkpoints store it. Also an embedding table (rows are tokens)."""

    weight: NDArray[Any]  # [out, in], float16 or float32
    bias: Float32 | None = None  # [out]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class PackedLinear:
    """A weight in the backend's own layout. Its arrays may be memory-mapped files: a backend never writes them."""

    kind: Literal["int4", "dense"]
    in_features: int
    out_features: int
    group_size: int  # input rows that share a scale, as the backend sees them; 0 for dense
    arrays: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class KVCache:
    """Paged keys and values. A block holds `block_size` consecutive tokens of a sequence, or of a prefix many share."""

    keys: Array  # [layers, num_blocks, kv_heads, block_size, head_dim]; float32 (reference) or float16 (cpu, cuda)
    values: Array  # the same
    block_size: int  # tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """A ragged batch: `num_seqs` spans of new tokens, laid end to end (T tokens in all).

    query_starts     [0, 3, 4]          sequence 0 has new tokens 0..2, sequence 1 has new token 3
    context_lens     [7, 1]             tokens in the cache after this step: sequence 0 had 4, gets 3 more
    positions        [4, 5, 6, 0]
    slot_mapping     [20, 21, 22, 64]   where each new token's key and value go: block * block_size + offset
    block_tables     [[1, ..], [4, ..]] row s, entry j: the block that holds tokens j * block_size ..; padded with -1
    """

    positions: Int32  # [T]
    slot_mapping: Int32  # [T]
    query_starts: Int32  # [num_seqs + 1]
    context_lens: Int32  # [num_seqs]
    block_tables: Int32  # [num_seqs, max_blocks]

    def only(self, rows: Int32) -> "Batch":
        """The batch in which only these of the T tokens, ascending, are asked for: what is cached stays what it is."""
        starts = np.searchsorted(rows, self.query_starts).astype(np.int32)
        asked = np.flatnonzero(np.diff(starts))  # sequences
        return Batch(
            positions=self.positions[rows],
            slot_mapping=self.slot_mapping[rows],
            query_starts=np.append(starts[asked], starts[-1]),
            context_lens=self.context_lens[asked],
            block_tables=self.block_tables[asked],
        )


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How a fused qkv row is cut: num_heads queries, then num_kv_heads keys, then as many values, head_dim each."""

    num_heads: int
    num_kv_heads: int  # divides num_heads; query head h reads key head h // (num_heads // num_kv_heads)
    head_dim: int  # even


@dataclass(frozen=True, slots=True)
class RopeTable:
    """cos and sin of position * inverse frequency, computed once by the model."""

    cos: Array  # [max_positions, head_dim // 2]
    sin: Array  # the same


@dataclass(frozen=True, slots=True)
class Step:
    """What a model computes in one go."""

    token_ids: Array  # int32 [T]: the host's, or as the backend hands it to what `run_step` runs
    rows: Array  # the same, [R], ascending: the tokens after which logits are asked for
    batch: Batch
    asked: Batch | None  # batch.only(rows); the batch itself if every token is asked for; None if none is
    cache: KVCache


@dataclass(frozen=True, slots=True)
class StepSize:
    """What a step's memory depends on."""

    num_tokens: int
    num_rows: int  # of logits
    context: int  # tokens of the longest sequence
    layout: HeadLayout
    hidden: int
    intermediate: int
    vocab: int


class Ops(Protocol):
    """A backend. Every operation returns a new array unless it says that it works in place."""

    @property
    def name(self) -> str:
        """`reference`, `cpu` or `cuda`."""

    @property
    def version(self) -> str:
        """Changes whenever packed layouts or result bits change: part of every disk-cache key."""

    @property
    def is_deterministic(self) -> bool:
        """True when the invariant in this file's head holds bit for bit."""

    def pack_int4(self, weight: Int4Weight) -> PackedLinear: ...

    def pack_dense(self, weight: DenseWeight) -> PackedLinear: ...

    def place(self, weight: PackedLinear) -> PackedLinear:
        """Bring a packed weight to where it is multiplied. Raises BackendError where it does not fit."""

    def free_bytes(self, largest: StepSize) -> int | None:
        """Memory that a KV cache may take on the device, beside steps of this size; None where it is the machine's own."""

    def array(self, values: NDArray[Any]) -> Array:
        """Host array -> backend array (norm weights, rope tables)."""

    def to_host(self, values: Array) -> NDArray[Any]:
        """Backend array -> numpy array."""

    def allocate_cache(self, num_layers: int, num_blocks: int, layout: HeadLayout, block_size: int) -> KVCache:
        """Zero-filled; memory is only committed by the system for blocks that were written."""

    def copy_block(self, cache: KVCache, source: int, target: int) -> None:
        """Copy one block's keys and values in every layer."""

    def export_blocks(self, cache: KVCache, layer: int, blocks: Int32) -> tuple[NDArray[Any], NDArray[Any]]:
        """Host copies of a layer's keys and values in these blocks, [len(blocks), kv_heads, block_size, head_dim] each."""

    def import_blocks(
        self, cache: KVCache, layer: int, blocks: Int32, keys: NDArray[Any], values: NDArray[Any]
    ) -> None:
        """The inverse of export_blocks."""

    def run_step(self, step: Step, compute: Callable[[Step], Array | None], key: Hashable | None) -> Array | None:
        """compute(step), with the step's token ids and rows as the backend wants them; None where no rows are asked for.

        `key` names whatever else `compute` reads: for steps of one key and cache a backend may record the operations and
        repeat them with other numbers. None: it may not. The result is good until the next step.
        """

    def embed(self, table: PackedLinear, token_ids: Array) -> Array:
        """Rows of a dense table as float32: [T] -> [T, hidden]. `token_ids`: int32, the host's or a step's."""

    def rms_norm(self, x: Array, weight: Array, eps: float) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight, per row: [T, hidden] -> [T, hidden]."""

    def linear(self, x: Array, weight: PackedLinear) -> Array:
        """[T, in] -> [T, out], float32."""

    def rope_and_store(
        self, qkv: Array, rope: RopeTable, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch
    ) -> Array:
        """Rotate queries and keys of qkv [T, (heads + 2 * kv_heads) * head_dim]; cache keys and values.

        Returns the queries as `attention` takes them, a row per token; qkv is used up. The rotation is Hugging Face's:
        dimension i pairs with i + head_dim / 2.
        """

    def attention(self, queries: Array, layout: HeadLayout, cache: KVCache, layer: int, batch: Batch) -> Array:
        """Causal attention of rotated queries over their own sequence's cache, scaled by head_dim ** -0.5.

        Rows of what rope_and_store returned -> [T, heads * head_dim].
        """

    def silu_mul(self, gate_up: Array) -> Array:
        """silu(gate) * up: [T, 2 * intermediate], gate first -> [T, intermediate]."""

    def add_(self, x: Array, y: Array) -> None:
        """x += y, in place."""

    # Neighbours that a backend may fuse. Each gives the bits of its parts done one after the other.

    def norm_linear(self, x: Array, norm: Array, eps: float, weight: PackedLinear) -> Array:
        """linear(rms_norm(x, norm, eps), weight); a backend may round it to float16."""

    def add_linear_(self, total: Array, x: Array, weight: PackedLinear) -> None:
        """total += linear(x, weight), in place."""

    def add_gated_linear_(self, total: Array, gate_up: Array, weight: PackedLinear) -> None:
        """total += linear(silu_mul(gate_up), weight), in place."""
