"""The AWQ folder on disk: weights in one file or in shards, configurations as others write them, everything else copied.

Knows: safetensors, config.json and quant_config.json, which files of a checkpoint are weights.
Never knows: how weights are quantised.

Facts: AutoAWQ's quant_config.json (w_bit, q_group_size, zero_point, version in upper case) and the quantization_config of
config.json that transformers reads (bits, group_size, quant_method, version in lower case).
"""

import json
import math
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.model.llama_config import read_json
from guardhouse.model.tensor_files import INDEX_FILE, PICKLE_SUFFIXES, SINGLE_FILE, TensorEntry, map_tensor, read_header

DTYPE_NAMES = {"float16": "F16", "int32": "I32"}
MAX_COPIED_BYTES = 64 << 20  # tokenizers, templates and licences are smaller; larger files are weights of another kind
WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".gguf", ".onnx", *PICKLE_SUFFIXES)
WRITTEN = ("config.json", "quant_config.json")


def copy_other_files(source: Path, target: Path) -> None:
    """Tokenizer, template, licence and the like: whatever is neither weights nor written here."""
    for path in sorted(source.iterdir()):
        is_weight = path.name.endswith(WEIGHT_SUFFIXES) or path.name.endswith(".bin.index.json")
        if path.is_file() and not is_weight and path.name not in WRITTEN and path.stat().st_size <= MAX_COPIED_BYTES:
            shutil.copyfile(path, target / path.name)


def write_configs(source: Path, target: Path, group_size: int) -> None:
    """config.json with a quantization_config, and quant_config.json."""
    config = read_json(source / "config.json")
    quantization = {
        "bits": 4,
        "group_size": group_size,
        "modules_to_not_convert": None,
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }
    dtype = "dtype" if "dtype" in config else "torch_dtype"
    _write_json(target / "config.json", config | {"quantization_config": quantization, dtype: "float16"})
    awq = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
    _write_json(target / "quant_config.json", awq)


def write_weights(parts: Sequence[Path], target: Path, max_shard_bytes: int) -> list[Path]:
    """Join the tensors of `parts` into model.safetensors, or into shards and an index if they are too large for one."""
    tensors = {name: entry for part in parts for name, entry in read_header(part).items()}
    shards: list[dict[str, TensorEntry]] = [{}]
    for name, entry in tensors.items():
        size = sum(other.num_bytes for other in shards[-1].values())
        if shards[-1] and size + entry.num_bytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = entry
    if len(shards) == 1:
        write_safetensors(target / SINGLE_FILE, {name: map_tensor(entry) for name, entry in tensors.items()})
        return [target / SINGLE_FILE]
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(target / name, {tensor: map_tensor(entry) for tensor, entry in shard.items()})
    index = {
        "metadata": {"total_size": sum(entry.num_bytes for entry in tensors.values())},
        "weight_map": {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard},
    }
    _write_json(target / INDEX_FILE, index)
    return [target / name for name in names]


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Header length (8 bytes), header (JSON), the tensors end to end; one tensor at a time in memory, then renamed."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + math.prod(array.shape) * array.dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that data begins at a multiple of 8
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)
    unfinished.replace(path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
