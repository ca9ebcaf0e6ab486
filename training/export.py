"""Write the trained model as an ordinary checkpoint folder: AWQ GEMM tensors, tokenizer, configs.

Knows: names and fields of the files that transformers and Guardhouse read.
Never knows: training, data.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from guardhouse.model.awq import pack_awq, quantize_rtn
from training.model import Llama, LlamaShape
from training.quantization import GROUP_SIZE
from training.tokenizer import save_tokenizer

BOS_ID, EOS_ID = 1, 2


def export_checkpoint(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """The whole folder but its README."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model_config(model.shape))
    write_json(folder / "quant_config.json", quant_config())
    generation = {"bos_token_id": BOS_ID, "do_sample": False, "eos_token_id": EOS_ID, "pad_token_id": 0}
    write_json(folder / "generation_config.json", generation)
    save_tokenizer(tokenizer, folder, model.shape.max_positions)


def checkpoint_tensors(model: Llama) -> dict[str, NDArray[Any]]:
    """Decoder linears in 4 bits; embedding table and norms in float16; the LM head is the table."""
    linears = model.linears()
    tensors: dict[str, NDArray[Any]] = {}
    for name, linear in linears.items():
        packed = pack_awq(quantize_rtn(linear.weight.detach().numpy(), GROUP_SIZE))
        tensors |= {f"{name}.{part}": np.ascontiguousarray(array) for part, array in packed.items()}
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in linears:
            tensors[name] = parameter.detach().numpy().astype(np.float16)
    return tensors


def model_config(shape: LlamaShape) -> dict[str, Any]:
    """config.json as transformers has it for a Llama in AWQ."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_positions,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "pad_token_id": 0,
        "quantization_config": {
            "bits": 4,
            "group_size": GROUP_SIZE,
            "modules_to_not_convert": None,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": True,
        },
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def quant_config() -> dict[str, Any]:
    """quant_config.json as AutoAWQ writes it."""
    return {"zero_point": True, "q_group_size": GROUP_SIZE, "w_bit": 4, "version": "GEMM"}


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
