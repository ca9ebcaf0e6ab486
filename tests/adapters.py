"""Random LoRA adapters in PEFT's format, for tests of every layer.

Knows: the names and shapes of PEFT's tensors, for any checkpoint that write_checkpoint made.
Never knows: what is tested with them.

    folder = write_adapter(tmp_path / "adapter", checkpoint, rank=4, targets=("q_proj", "v_proj"))
"""

from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import write_json
from numpy.typing import NDArray
from safetensors.numpy import save_file

from guardhouse.model.layout import layer_linears
from guardhouse.model.llama_config import read_config

EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapter_tensors(
    checkpoint: Path, rank: int = 4, targets: tuple[str, ...] = EVERY_LINEAR, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """Weights large enough that every logit changes."""
    config = read_config(checkpoint)
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config.num_layers):
        for linear in layer_linears(config, layer):
            if linear.name.rsplit(".", 1)[-1] in targets:
                name = f"base_model.model.{linear.name}"
                down = generator.standard_normal((rank, linear.in_features)) * linear.in_features**-0.5
                up = generator.standard_normal((linear.out_features, rank)) * rank**-0.5
                tensors[f"{name}.lora_A.weight"] = down.astype(np.float32)
                tensors[f"{name}.lora_B.weight"] = up.astype(np.float32)
    return tensors


def adapter_config(rank: int = 4, targets: tuple[str, ...] = EVERY_LINEAR, **fields: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "model_type": "llama",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(targets),
        **fields,
    }


def write_adapter(
    folder: Path,
    checkpoint: Path,
    rank: int = 4,
    targets: tuple[str, ...] = EVERY_LINEAR,
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Both files of an adapter for this checkpoint; `fields` go into adapter_config.json. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter_tensors(checkpoint, rank, targets, seed), folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", adapter_config(rank, targets, **fields))
    return folder
