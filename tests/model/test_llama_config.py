"""What model/llama_config.py promises: both spellings are understood, what is not supported is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from checkpoints import edit_json, write_checkpoint, write_json

from guardhouse.errors import CheckpointError
from guardhouse.model.llama_config import AwqConfig, read_config


def test_autoawqs_own_spelling_is_understood(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quant=32)
    edit_json(tmp_path / "config.json", quantization_config=...)
    write_json(tmp_path / "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})
    assert read_config(tmp_path).quantization == AwqConfig(bits=4, group_size=32)


def test_llama_guard_7bs_configuration_is_read(shared_data: Path) -> None:
    config = read_config(shared_data / "llamaguard-7b")
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (32, 32, 32, 128)
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling) == (1e-5, 10000.0, None)
    assert config.quantization is not None
    assert config.quantization.group_size == 128
    assert (config.max_positions, config.bos_token_id, config.eos_token_ids) == (2048, 1, (2,))


def test_transformers_5_rope_parameters_are_understood(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", rope_theta=..., rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert read_config(tmp_path).rope_theta == 5e5


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "nul", "\xff", "[" * 100_000])
def test_a_broken_configuration_is_refused(tmp_path: Path, content: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config.json: (cannot be read|expected a JSON object)"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' is not supported"),
        ({"model_type": ...}, "model_type None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, found 0"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, found '64'"),
        ({"vocab_size": ...}, "vocab_size must be a positive integer, found None"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be"),
        ({"num_key_value_heads": 3}, "3 key-value heads do not divide 4 heads"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": "x"}, "rope_theta must be a positive number"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope type 'yarn' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope type 'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "low_freq_factor must be a positive number"),
        ({"rope_scaling": 8}, "rope_scaling must be an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"attention_bias": "no"}, "attention_bias must be true or false"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id must be a token id"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quant_method 'gptq' is not supported"),
        ({"quantization_config": "awq"}, "quantization_config must be an object"),
        ({"quantization_config": {"quant_method": "awq", "bits": 8, "group_size": 32}}, "8 bits are not supported"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 0}}, "group_size must be positive"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}},
            "version 'gemv' is not supported",
        ),
    ],
)
def test_an_unsupported_configuration_is_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", **fields)
    with pytest.raises(CheckpointError, match=complaint):
        read_config(tmp_path)
