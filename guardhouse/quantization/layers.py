"""One decoder layer by a plan, from dense weights to AWQ's tensors: scales folded into what comes before, ranges clipped.

Knows: which operation makes the input of which linears.
Never knows: how a plan is found, files, other layers.

    input_layernorm ──► q, k, v     v_proj ──► o     post_attention_layernorm ──► gate, up     up_proj ──► down

v_proj makes the input of o_proj although attention lies between, for attention mixes tokens, not channels; and up_proj
that of down_proj, for the gate multiplies each channel by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import CheckpointError
from guardhouse.model.awq import concatenate_biases, dequantize, pack_awq, quantize_rtn
from guardhouse.model.checkpoint import Checkpoint, LlamaConfig
from guardhouse.model.layout import layer_linears, layer_norms
from guardhouse.model.llama import Layer
from guardhouse.ops.table import DenseWeight, Float32, Int4Weight, Ops

Tensors = dict[str, NDArray[Any]]
MAX_FLOAT16 = 65504.0
LINEARS = ("q", "k", "v", "o", "gate", "up", "down")  # in the order of layer_linears
INPUT_OF = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "output", "gate": "gate_up", "up": "gate_up", "down": "down"}


@dataclass(frozen=True, slots=True)
class Parts:
    """A layer's dense weights."""

    weights: Mapping[str, Float32]  # [out, in]
    biases: Mapping[str, Float32]
    attention_norm: Float32
    mlp_norm: Float32


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to a layer before rounding; nothing at all is rounding to nearest."""

    scales: Mapping[str, Float32] = field(default_factory=dict)  # input -> [in]
    shrink: Mapping[str, Float32] = field(default_factory=dict)  # linear -> [out, groups]

    def with_scales(self, source: str, scales: Float32) -> "Plan":
        return replace(self, scales={**self.scales, source: scales})

    def with_shrink(self, found: Mapping[str, Float32]) -> "Plan":
        return replace(self, shrink={**self.shrink, **found})


def to_float16(values: NDArray[Any], name: str) -> NDArray[np.float16]:
    """What AWQ checkpoints hold besides codes. Raises CheckpointError where a value is too large for it."""
    if values.size and np.abs(values).max() > MAX_FLOAT16:
        raise CheckpointError(f"{name}: holds values beyond float16, which AWQ checkpoints are stored in")
    return np.ascontiguousarray(values, np.float16)


def value_owners(config: LlamaConfig) -> NDArray[np.intp]:
    """For each input of o_proj, the output of v_proj that makes it: query heads of a group read one value head."""
    heads = np.arange(config.num_heads) // (config.num_heads // config.num_kv_heads)
    return (heads[:, None] * config.head_dim + np.arange(config.head_dim)).reshape(-1)


def load_parts(checkpoint: Checkpoint, index: int) -> Parts:
    weights, biases = {}, {}
    for name, spec in zip(LINEARS, layer_linears(checkpoint.config, index), strict=True):
        linear = checkpoint.linear(spec.name)
        assert isinstance(linear, DenseWeight), "the checkpoint was checked to be dense"
        weights[name] = linear.weight.astype(np.float32)
        if linear.bias is not None:
            biases[name] = linear.bias
    attention_norm, mlp_norm = (checkpoint.vector(f"{name}.weight") for name in layer_norms(index))
    return Parts(weights, biases, attention_norm, mlp_norm)


def owners(config: LlamaConfig) -> dict[str, NDArray[np.intp]]:
    """For each input, which output of the previous operation makes it."""
    hidden = np.arange(config.hidden_size)
    down = np.arange(config.intermediate_size)
    return {"qkv": hidden, "output": value_owners(config), "gate_up": hidden, "down": down}


def fold_scales(parts: Parts, scales: Mapping[str, Float32], config: LlamaConfig) -> Parts:
    """Multiply the linears that read a scaled input, divide what makes it. The layer computes what it did before."""
    made_by: dict[str, Float32] = {
        source: _by_owner(scales[source], owner) if source in scales else np.ones(owner.max() + 1, np.float32)
        for source, owner in owners(config).items()
    }
    output_scale = {"v": made_by["output"], "up": made_by["down"]}
    weights: dict[str, Float32] = {}
    biases = dict(parts.biases)
    for name, weight in parts.weights.items():
        scaled = weight * scales[INPUT_OF[name]] if INPUT_OF[name] in scales else weight
        weights[name] = scaled / output_scale[name][:, None] if name in output_scale else scaled
        if name in output_scale and name in biases:
            biases[name] = biases[name] / output_scale[name]
    return Parts(weights, biases, parts.attention_norm / made_by["qkv"], parts.mlp_norm / made_by["gate_up"])


def round_parts(parts: Parts, plan: Plan, group_size: int) -> dict[str, Int4Weight]:
    """The linears of folded parts in 4 bits."""
    return {name: quantize_rtn(weight, group_size, plan.shrink.get(name)) for name, weight in parts.weights.items()}


def rounded_layer(parts: Parts, plan: Plan, config: LlamaConfig, group_size: int) -> Parts:
    """The layer as the checkpoint will hold it, dense again, to be run."""
    folded = fold_scales(parts, plan.scales, config)
    rounded = {name: dequantize(weight).weight for name, weight in round_parts(folded, plan, group_size).items()}
    return replace(folded, weights=rounded)


def build_layer(parts: Parts, ops: Ops) -> Layer:
    """Ready to run."""
    fused = {"qkv": ("q", "k", "v"), "output": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
    packed = {}
    for source, names in fused.items():
        bias = concatenate_biases([parts.biases.get(name) for name in names])
        packed[source] = ops.pack_dense(DenseWeight(np.concatenate([parts.weights[name] for name in names]), bias))
    return Layer(ops.array(parts.attention_norm), ops.array(parts.mlp_norm), packed)


def layer_tensors(checkpoint: Checkpoint, index: int, parts: Parts, plan: Plan, group_size: int) -> Tensors:
    """Fold, clip, round and pack: the tensors of layer `index` by their names."""
    folded = fold_scales(parts, plan.scales, checkpoint.config)
    packed = round_parts(folded, plan, group_size)
    tensors: Tensors = {}
    for name, spec in zip(LINEARS, layer_linears(checkpoint.config, index), strict=True):
        for part, array in pack_awq(packed[name]).items():
            tensors[f"{spec.name}.{part}"] = np.ascontiguousarray(array)
        if name in folded.biases:
            tensors[f"{spec.name}.bias"] = to_float16(folded.biases[name], f"{spec.name}.bias")
    for norm_name, norm in zip(layer_norms(index), (folded.attention_norm, folded.mlp_norm), strict=True):
        tensors[f"{norm_name}.weight"] = to_float16(norm, f"{norm_name}.weight")
    return tensors


def _by_owner(scales: Float32, owner: NDArray[np.intp]) -> Float32:
    """[in] -> [outputs of the previous operation]; inputs of one owner have one scale."""
    result = np.empty(owner.max() + 1, np.float32)
    result[owner] = scales
    return result
