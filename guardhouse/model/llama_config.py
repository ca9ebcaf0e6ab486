"""Read a Hugging Face folder's config.json into one checked value.

Knows: the fields of Llama 1, 2 and 3 configurations, AWQ's fields in both spellings, and which features are supported.
Never knows: tensors, weight files, backends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardhouse.errors import CheckpointError

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AwqConfig:
    """How the linears of the decoder layers are quantised."""

    bits: int  # always 4
    group_size: int  # inputs that share a scale; -1: all inputs
    has_zero_point: bool = True  # False: a checkpoint may leave out qzeros
    modules_to_not_convert: tuple[str, ...] = ()  # a linear whose name contains one of these is dense


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the rotation's frequencies are stretched beyond the length of pretraining."""

    kind: str  # "linear" or "llama3"
    factor: float
    low_freq_factor: float = 1.0  # llama3 only, as the next two
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of a Llama. Names are Hugging Face's, without `_attention` and the like."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_positions: int  # what the file says; Llama Guard 7B says 2048 although it was trained on 4096
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    quantization: AwqConfig | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]


def read_config(folder: Path) -> LlamaConfig:
    """config.json, with quant_config.json and generation_config.json where they are. Raises CheckpointError.

    >>> read_config(Path("llamaguard-7b")).hidden_size      # doctest: +SKIP
    4096
    """
    fields = read_json(folder / "config.json")
    _refuse_unsupported(fields)
    hidden_size = _positive(fields, "hidden_size")
    num_heads = _positive(fields, "num_attention_heads")
    num_kv_heads = _positive(fields, "num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise CheckpointError(f"config.json: {num_kv_heads} key-value heads do not divide {num_heads} heads")
    head_dim = _positive(fields, "head_dim", default=hidden_size // num_heads)
    if head_dim % 2:
        raise CheckpointError(f"config.json: head_dim {head_dim} is odd")
    rope = _rope_fields(fields)
    return LlamaConfig(
        vocab_size=_positive(fields, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_positive(fields, "intermediate_size"),
        num_layers=_positive(fields, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_number(fields, "rms_norm_eps", default=1e-6),
        rope_theta=_number(rope, "rope_theta", default=10000.0),
        rope_scaling=_rope_scaling(rope),
        max_positions=_positive(fields, "max_position_embeddings", default=2048),
        tie_word_embeddings=_flag(fields, "tie_word_embeddings"),
        attention_bias=_flag(fields, "attention_bias"),
        mlp_bias=_flag(fields, "mlp_bias"),
        quantization=_read_quantization(folder, fields),
        bos_token_id=next(iter(_token_ids(fields, "bos_token_id")), None),
        eos_token_ids=read_eos_token_ids(folder),
    )


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Tokens that end an answer: those of config.json, then those that only generation_config.json names."""
    found = list(_token_ids(read_json(folder / "config.json"), "eos_token_id"))
    generation = folder / "generation_config.json"
    if generation.exists():
        found += _token_ids(read_json(generation), "eos_token_id")
    return tuple(dict.fromkeys(found))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a CheckpointError that names the file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: no such file in {path.parent}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected a JSON object, found {type(value).__name__}")
    return value


def _refuse_unsupported(fields: Fields) -> None:
    supported = {
        "model_type": ("llama",),
        "hidden_act": ("silu", None),
        "partial_rotary_factor": (1, None),
        "sliding_window": (None,),
    }
    for name, values in supported.items():
        if fields.get(name) not in values:
            raise CheckpointError(f"config.json: {name} {fields.get(name)!r} is not supported, only {values[0]!r}")


def _rope_fields(fields: Fields) -> dict[str, Any]:
    """Both layouts as one: `rope_theta` beside `rope_scaling`, or (transformers 5) both inside `rope_parameters`."""
    merged: dict[str, Any] = {"rope_theta": fields.get("rope_theta")}
    for name in ("rope_scaling", "rope_parameters"):
        inner = fields.get(name)
        if inner is None:
            continue
        if not isinstance(inner, dict):
            raise CheckpointError(f"config.json: {name} must be an object, found {type(inner).__name__}")
        merged |= inner
    return merged


def _rope_scaling(rope: Fields) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=_number(rope, "factor"))
    if kind != "llama3":
        raise CheckpointError(f"config.json: rope type {kind!r} is not supported, only default, linear and llama3")
    scaling = RopeScaling(
        "llama3",
        factor=_number(rope, "factor"),
        low_freq_factor=_number(rope, "low_freq_factor"),
        high_freq_factor=_number(rope, "high_freq_factor"),
        original_max_positions=_positive(rope, "original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise CheckpointError("config.json: high_freq_factor must be greater than low_freq_factor")
    return scaling


def _read_quantization(folder: Path, fields: Fields) -> AwqConfig | None:
    """From config.json, or from AutoAWQ's own quant_config.json where config.json says nothing."""
    quantization = fields.get("quantization_config")
    separate = folder / "quant_config.json"
    if quantization is None and separate.exists():
        quantization = {"quant_method": "awq", **read_json(separate)}
    if quantization is None:
        return None
    if not isinstance(quantization, dict):
        raise CheckpointError(f"quantization_config must be an object, found {type(quantization).__name__}")
    return _parse_quantization(quantization)


def _parse_quantization(fields: Fields) -> AwqConfig:
    method = fields.get("quant_method")
    if method != "awq":
        raise CheckpointError(f"quantization: quant_method {method!r} is not supported, only 'awq'")
    version = fields.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise CheckpointError(f"quantization: AWQ version {version!r} is not supported, only 'gemm'")
    bits = fields.get("bits", fields.get("w_bit"))
    if bits != 4:
        raise CheckpointError(f"quantization: {bits!r} bits are not supported, only 4")
    group_size = fields.get("group_size", fields.get("q_group_size"))
    if not isinstance(group_size, int) or isinstance(group_size, bool) or (group_size < 1 and group_size != -1):
        raise CheckpointError(f"quantization: group_size must be positive or -1, found {group_size!r}")
    dense = fields.get("modules_to_not_convert")
    if dense is not None and not (isinstance(dense, list) and all(isinstance(name, str) and name for name in dense)):
        raise CheckpointError("quantization: modules_to_not_convert must be a list of names")
    return AwqConfig(4, group_size, _flag(fields, "zero_point", default=True), tuple(dense or ()))


def _positive(fields: Fields, name: str, default: int | None = None) -> int:
    value = fields.get(name)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {name} must be a positive integer, found {value!r}")
    return value


def _number(fields: Fields, name: str, default: float | None = None) -> float:
    value = fields.get(name)
    if value is None:
        value = default
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise CheckpointError(f"config.json: {name} must be a positive number, found {value!r}")
    return float(value)


def _flag(fields: Fields, name: str, default: bool = False) -> bool:
    value = fields.get(name, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be true or false, found {value!r}")
    return value


def _token_ids(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields.get(name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in ids):
        raise CheckpointError(f"{name} must be a token id, or a list of them, found {value!r}")
    return tuple(ids)
