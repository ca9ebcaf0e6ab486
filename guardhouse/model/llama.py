"""The whole Llama transformer, written once over the operations of ops/table.py.

Knows: the order of operations, which linears are fused, where the weights come from.
Never knows: requests, sampling, how a batch was put together, text, a backend's arrays from within.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from guardhouse.model.checkpoint import Checkpoint, LlamaConfig
from guardhouse.model.layout import FINAL_NORM, fused_linears, layer_norms
from guardhouse.model.lora import Adapter, Span, add_adapters_, spans_of
from guardhouse.model.rope import rope_tables
from guardhouse.model.weight_cache import CacheKey, Group, load_or_pack
from guardhouse.ops.table import (
    Array,
    Batch,
    DenseWeight,
    Float32,
    HeadLayout,
    Int4Weight,
    Int32,
    KVCache,
    Ops,
    PackedLinear,
    RopeTable,
    Step,
)

CACHED_FROM_BYTES = 64 * 2**20  # smaller checkpoints are packed faster than a cache is looked after


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    attention_norm: Array  # [hidden]
    mlp_norm: Array  # [hidden]
    linears: Mapping[str, PackedLinear]  # by the names of `layout.fused_linears`:
    # qkv       hidden -> (heads + 2 * kv_heads) * head_dim
    # output    heads * head_dim -> hidden
    # gate_up   hidden -> 2 * intermediate
    # down      intermediate -> hidden


@dataclass(frozen=True, slots=True)
class Weights:
    """All of a model's weights, packed for one backend."""

    embedding: PackedLinear  # [vocab, hidden]
    layers: Sequence[Layer]
    final_norm: Array  # [hidden]
    head: PackedLinear  # hidden -> vocab
    rope: RopeTable


class Llama:
    """A model ready to run. It keeps no state between calls: keys and values live in the caller's KVCache."""

    def __init__(self, config: LlamaConfig, ops: Ops, weights: Weights, max_positions: int) -> None:
        self.config = config
        self.ops = ops
        self.max_positions = max_positions  # tokens of the longest sequence it can be asked for
        self.layout = HeadLayout(config.num_heads, config.num_kv_heads, config.head_dim)
        self._weights = weights

    def allocate_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """Room for num_blocks * block_size tokens."""
        return self.ops.allocate_cache(self.config.num_layers, num_blocks, self.layout, block_size)

    def forward(
        self,
        token_ids: Int32,
        batch: Batch,
        cache: KVCache,
        rows: Int32,
        adapters: Sequence[Adapter | None] = (),
    ) -> Float32:
        """Run the batch's new tokens, write their keys and values, return the logits after some: [len(rows), vocab].

        `rows` are indices into token_ids, ascending. Nothing else is read of the last layer's output, so what follows
        its keys and values, and the LM head, run for those rows only. `adapters`: each sequence's, or none at all.
        """
        assert len(token_ids) == len(batch.positions) > 0
        assert token_ids.min() >= 0, "a negative token id"
        assert token_ids.max() < self.config.vocab_size, "a token id outside the vocabulary"
        assert batch.positions.max() < self.max_positions, "a position beyond the rope table"
        assert (rows[1:] > rows[:-1]).all(), "rows that do not ascend"
        spans = spans_of(adapters, batch.query_starts) if any(adapters) else []
        asked = batch if len(rows) == len(token_ids) else batch.only(rows) if len(rows) else None
        asked_spans = spans_of(adapters, batch.query_starts, rows) if spans else []
        step = Step(token_ids, rows, batch, asked, cache)
        logits = self.ops.run_step(step, partial(self._compute, spans, asked_spans), None if spans else id(self))
        if logits is None:
            return np.zeros((0, self.config.vocab_size), np.float32)
        return np.asarray(self.ops.to_host(logits), np.float32)

    def _compute(self, spans: Sequence[Span], asked_spans: Sequence[Span], step: Step) -> Array | None:
        """A step's operations. Their order and sizes depend on the step's shape alone, unless there are adapters."""
        x = self.embed(step.token_ids)  # [T, hidden]
        for index in range(self.config.num_layers - 1):
            self._add_attention_(x, index, step.cache, step.batch, spans)
            self._add_mlp_(x, index, spans)
        last = self.config.num_layers - 1
        queries = self._store_keys(x, last, step.cache, step.batch, spans)
        if step.asked is None:
            return None
        if step.asked is not step.batch:
            x, queries = x[step.rows], queries[step.rows]  # [R, ..]
        attended = self.ops.attention(queries, self.layout, step.cache, last, step.asked)
        self._add_linear_(x, attended, last, "output", asked_spans)
        self._add_mlp_(x, last, asked_spans)
        return self.ops.norm_linear(x, self._weights.final_norm, self.config.rms_norm_eps, self._weights.head)

    def embed(self, token_ids: Array) -> Array:
        """What the first layer reads: [T, hidden]."""
        return self.ops.embed(self._weights.embedding, token_ids)

    def run_layer(self, x: Array, index: int, cache: KVCache, batch: Batch) -> None:
        """One decoder layer over hidden states [T, hidden], in place; keys and values go to the cache's layer `index`."""
        self._add_attention_(x, index, cache, batch, ())
        self._add_mlp_(x, index, ())

    def with_layers(self, layers: Sequence[Layer]) -> "Llama":
        """The same model with other layers, everything else shared."""
        return Llama(self.config, self.ops, replace(self._weights, layers=layers), self.max_positions)

    def _add_attention_(self, x: Array, index: int, cache: KVCache, batch: Batch, spans: Sequence[Span]) -> None:
        """x += output(attention(norm(x))). What it makes on the way is free again before the MLP makes its own."""
        queries = self._store_keys(x, index, cache, batch, spans)
        attended = self.ops.attention(queries, self.layout, cache, index, batch)  # [T, heads * head_dim]
        self._add_linear_(x, attended, index, "output", spans)

    def _store_keys(self, x: Array, index: int, cache: KVCache, batch: Batch, spans: Sequence[Span]) -> Array:
        """Rotated queries of every token, as attention takes them; keys and values go to the cache."""
        layer = self._weights.layers[index]
        qkv = self._norm_linear(x, layer.attention_norm, index, "qkv", spans)
        return self.ops.rope_and_store(qkv, self._weights.rope, self.layout, cache, index, batch)

    def _add_mlp_(self, x: Array, index: int, spans: Sequence[Span]) -> None:
        """x += mlp(norm(x)), row by row."""
        layer = self._weights.layers[index]
        gate_up = self._norm_linear(x, layer.mlp_norm, index, "gate_up", spans)
        if spans:
            self._add_linear_(x, self.ops.silu_mul(gate_up), index, "down", spans)
        else:
            self.ops.add_gated_linear_(x, gate_up, layer.linears["down"])

    def _norm_linear(self, x: Array, norm: Array, index: int, name: str, spans: Sequence[Span]) -> Array:
        """One of a layer's linears after its norm, with what the rows' adapters add to it."""
        weight, eps = self._weights.layers[index].linears[name], self.config.rms_norm_eps
        y = self.ops.norm_linear(x, norm, eps, weight)
        if spans:
            add_adapters_(y, self.ops.rms_norm(x, norm, eps), spans, index, name, self.ops)
        return y

    def _add_linear_(self, total: Array, x: Array, index: int, name: str, spans: Sequence[Span]) -> None:
        """total += one of a layer's linears, with what the rows' adapters add to it."""
        weight = self._weights.layers[index].linears[name]
        if not spans:
            self.ops.add_linear_(total, x, weight)
            return
        y = self.ops.linear(x, weight)
        add_adapters_(y, x, spans, index, name, self.ops)
        self.ops.add_(total, y)


def load_llama(
    checkpoint: Checkpoint,
    ops: Ops,
    cache_dir: Path | None,
    max_positions: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Llama:
    """Pack a checkpoint for a backend, or find it packed in `cache_dir`. `progress` gets (steps done, steps in all).

    `max_positions` overrides the configuration's window, which Llama Guard 7B's file states as half of the true one.
    """
    config = checkpoint.config
    packers = [partial(_pack_layer, checkpoint, ops, layer) for layer in range(config.num_layers)]
    packers.append(partial(_pack_vocabulary, checkpoint, ops))
    key = CacheKey(checkpoint.fingerprint, ops.name, ops.version)
    is_cached = checkpoint.num_bytes >= CACHED_FROM_BYTES
    packed = load_or_pack(packers, cache_dir if is_cached else None, key, progress)
    *layers, vocabulary = ({name: ops.place(linear) for name, linear in group.items()} for group in packed)
    window = max_positions if max_positions is not None else config.max_positions
    cos, sin = rope_tables(config.head_dim, config.rope_theta, config.rope_scaling, window)
    embedding = vocabulary.get("embedding") or ops.place(ops.pack_dense(checkpoint.embedding()))
    weights = Weights(
        embedding=embedding,
        layers=[_build_layer(checkpoint, ops, index, group) for index, group in enumerate(layers)],
        final_norm=ops.array(checkpoint.vector(f"{FINAL_NORM}.weight")),
        head=vocabulary.get("head") or embedding,
        rope=RopeTable(ops.array(cos), ops.array(sin)),
    )
    return Llama(config, ops, weights, window)


def load_without_layers(checkpoint: Checkpoint, ops: Ops, max_positions: int) -> Llama:
    """For callers that bring the layers one at a time (`with_layers`), because all of them at once would not fit."""
    config = checkpoint.config
    embedding = ops.pack_dense(checkpoint.embedding())
    cos, sin = rope_tables(config.head_dim, config.rope_theta, config.rope_scaling, max_positions)
    rope = RopeTable(ops.array(cos), ops.array(sin))
    norm = ops.array(checkpoint.vector(f"{FINAL_NORM}.weight"))
    return Llama(config, ops, Weights(embedding, (), norm, embedding, rope), max_positions)


def load_layer(checkpoint: Checkpoint, ops: Ops, index: int) -> Layer:
    """One decoder layer, packed for a backend."""
    return _build_layer(checkpoint, ops, index, _pack_layer(checkpoint, ops, index))


def _build_layer(checkpoint: Checkpoint, ops: Ops, index: int, group: Group) -> Layer:
    attention_norm, mlp_norm = (ops.array(checkpoint.vector(f"{name}.weight")) for name in layer_norms(index))
    return Layer(attention_norm, mlp_norm, group)


def _pack_layer(checkpoint: Checkpoint, ops: Ops, layer: int) -> Group:
    """Linears that read the same rows are fused: fewer, larger products."""
    fused = fused_linears(checkpoint.config, layer)
    return {name: _pack(checkpoint.fused([part.name for part in parts]), ops) for name, parts in fused.items()}


def _pack_vocabulary(checkpoint: Checkpoint, ops: Ops) -> Group:
    """The head, unless it is tied; the embedding table, unless it can be used as it lies in the checkpoint."""
    group: Group = {}
    if not checkpoint.config.tie_word_embeddings:
        group["head"] = ops.pack_dense(checkpoint.head())
    if not checkpoint.is_embedding_mapped:
        group["embedding"] = ops.pack_dense(checkpoint.embedding())
    return group


def _pack(weight: Int4Weight | DenseWeight, ops: Ops) -> PackedLinear:
    return ops.pack_int4(weight) if isinstance(weight, Int4Weight) else ops.pack_dense(weight)
