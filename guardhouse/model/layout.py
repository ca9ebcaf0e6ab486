"""Which tensors a Llama checkpoint holds: their names, shapes and number formats.

Knows: Hugging Face's names and AWQ's tensors per linear.
Never knows: files, values, backends.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from guardhouse.errors import CheckpointError
from guardhouse.model.awq import COLUMNS_PER_WORD
from guardhouse.model.llama_config import LlamaConfig

FLOATS = ("F16", "BF16", "F32")
EMBEDDING = "model.embed_tokens"
FINAL_NORM = "model.norm"
HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """One linear layer as the checkpoint stores it."""

    name: str  # model.layers.0.self_attn.q_proj
    in_features: int
    out_features: int
    has_bias: bool
    group_size: int | None  # AWQ: inputs that share a scale, never -1; None: dense


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that must be in the weight files."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]  # safetensors' names of the number formats that are accepted
    is_optional: bool = False


def layer_linears(config: LlamaConfig, layer: int) -> tuple[LinearSpec, ...]:
    """The seven linears of a decoder layer: q, k, v, o, gate, up, down."""
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    hidden, intermediate = config.hidden_size, config.intermediate_size
    attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
    return (
        _linear(config, f"{attention}.q_proj", hidden, queries, config.attention_bias),
        _linear(config, f"{attention}.k_proj", hidden, keys, config.attention_bias),
        _linear(config, f"{attention}.v_proj", hidden, keys, config.attention_bias),
        _linear(config, f"{attention}.o_proj", queries, hidden, config.attention_bias),
        _linear(config, f"{mlp}.gate_proj", hidden, intermediate, config.mlp_bias),
        _linear(config, f"{mlp}.up_proj", hidden, intermediate, config.mlp_bias),
        _linear(config, f"{mlp}.down_proj", intermediate, hidden, config.mlp_bias),
    )


def fused_linears(config: LlamaConfig, layer: int) -> dict[str, tuple[LinearSpec, ...]]:
    """The linears of a layer as they run: those that read the same rows are one, their outputs side by side."""
    query, key, value, output, gate, up, down = layer_linears(config, layer)
    return {"qkv": (query, key, value), "output": (output,), "gate_up": (gate, up), "down": (down,)}


def head_linear(config: LlamaConfig) -> LinearSpec:
    """The LM head, never quantised. Where it is tied, its weight is the embedding table's."""
    return LinearSpec(HEAD, config.hidden_size, config.vocab_size, has_bias=False, group_size=None)


def layer_norms(layer: int) -> tuple[str, str]:
    """Names of the norms before attention and before the MLP."""
    return f"model.layers.{layer}.input_layernorm", f"model.layers.{layer}.post_attention_layernorm"


def expected_tensors(config: LlamaConfig) -> Iterator[TensorSpec]:
    """Every tensor of a checkpoint of this shape."""
    hidden = (config.hidden_size,)
    table = (config.vocab_size, config.hidden_size)
    yield TensorSpec(f"{EMBEDDING}.weight", table, FLOATS)
    for layer in range(config.num_layers):
        for linear in layer_linears(config, layer):
            yield from linear_tensors(linear, config)
        for norm in layer_norms(layer):
            yield TensorSpec(f"{norm}.weight", hidden, FLOATS)
    yield TensorSpec(f"{FINAL_NORM}.weight", hidden, FLOATS)
    if not config.tie_word_embeddings:
        yield TensorSpec(f"{HEAD}.weight", table, FLOATS)


def linear_tensors(linear: LinearSpec, config: LlamaConfig) -> Iterator[TensorSpec]:
    """`weight`, or AWQ's `qweight`, `qzeros` and `scales`; then `bias`."""
    if linear.group_size is None:
        yield TensorSpec(f"{linear.name}.weight", (linear.out_features, linear.in_features), FLOATS)
    else:
        num_groups, num_words = linear.in_features // linear.group_size, linear.out_features // COLUMNS_PER_WORD
        assert config.quantization is not None
        is_symmetric = not config.quantization.has_zero_point
        yield TensorSpec(f"{linear.name}.qweight", (linear.in_features, num_words), ("I32",))
        yield TensorSpec(f"{linear.name}.qzeros", (num_groups, num_words), ("I32",), is_optional=is_symmetric)
        yield TensorSpec(f"{linear.name}.scales", (num_groups, linear.out_features), FLOATS)
    if linear.has_bias:
        yield TensorSpec(f"{linear.name}.bias", (linear.out_features,), FLOATS)


def is_ignored(name: str) -> bool:
    """Tensors that old converters left behind: everything in them follows from the configuration."""
    return name.endswith(".rotary_emb.inv_freq")


def _linear(config: LlamaConfig, name: str, in_features: int, out_features: int, has_bias: bool) -> LinearSpec:
    quantization = config.quantization
    if quantization is None or any(part in name for part in quantization.modules_to_not_convert):
        return LinearSpec(name, in_features, out_features, has_bias, group_size=None)
    group_size = in_features if quantization.group_size == -1 else quantization.group_size
    if in_features % group_size or out_features % COLUMNS_PER_WORD:
        raise CheckpointError(f"{name}: [{in_features}, {out_features}] cannot be AWQ with groups of {group_size}")
    return LinearSpec(name, in_features, out_features, has_bias, group_size)
