"""Dense checkpoints to quantise, and an AWQ reader that shares no code with ours.

Knows: outlier channels, the embedded guard's weights, AWQ's layout as AutoAWQ's source states it.
Never knows: what is tested.
"""

import json
import shutil
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import GUARD_TEMPLATE, edit_json, write_checkpoint
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import load_layer, load_llama, load_without_layers
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Batch
from guardhouse.quantization.activations import CalibrationGroup, RecordingOps, embed_tokens, run_layer
from guardhouse.quantization.workers import start_workers

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the 4 bits i of an int32 hold this one of its eight columns


def write_dense(folder: Path, **fields: Any) -> Path:
    """Random weights; a few channels of every norm are 20 times the others, as trained models have them."""
    fields = {"hidden": 128, "intermediate": 256, "heads": 4, "kv_heads": 2, "dtype": "float32", **fields}
    write_checkpoint(folder, **{"template": GUARD_TEMPLATE, **fields})
    tensors = load_file(folder / "model.safetensors")
    generator = np.random.default_rng(1)
    for name, values in tensors.items():
        if name.endswith("layernorm.weight"):
            values[generator.choice(len(values), 6, replace=False)] *= 20
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_dense_embedded(folder: Path, noise: float = 0.15) -> Path:
    """The embedded guard in float32, moved off its own 4-bit grid by noise (a share of each weight's deviation).

    With much less of it every weight would still be nearest to the code it came from, and rounding would undo the noise.
    """
    folder.mkdir()
    for path in EMBEDDED_FOLDER.iterdir():
        if path.suffix in {".json", ".jinja"} and path.name != "quant_config.json":
            shutil.copyfile(path, folder / path.name)
    edit_json(folder / "config.json", quantization_config=...)
    generator = np.random.default_rng(0)
    tensors = dequantised(EMBEDDED_FOLDER)
    for name, values in tensors.items():
        if name.endswith("_proj.weight"):
            tensors[name] = values + noise * values.std() * generator.standard_normal(values.shape, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def dequantised(folder: Path) -> dict[str, NDArray[np.float32]]:
    """An AWQ folder's tensors as a dense checkpoint has them, read without any of our code."""
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    stored: dict[str, NDArray[Any]] = {}
    for file in files:
        stored |= load_file(folder / file)
    dense = {}
    for name, values in stored.items():
        if name.endswith(".qweight"):
            base = name.removesuffix(".qweight")
            scales = stored[f"{base}.scales"].astype(np.float32)
            repeat = len(values) // len(scales)
            zeros = np.repeat(nibbles(stored[f"{base}.qzeros"]), repeat, axis=0)
            weight = (nibbles(values) - zeros) * np.repeat(scales, repeat, axis=0)  # [in, out]
            dense[f"{base}.weight"] = np.ascontiguousarray(weight.T, np.float32)
        elif not name.endswith((".qzeros", ".scales")):
            dense[name] = values.astype(np.float32)
    return dense


def nibbles(packed: NDArray[np.int32]) -> NDArray[np.float32]:
    """[rows, words] -> [rows, 8 * words]."""
    columns = np.empty((packed.shape[0], 8 * packed.shape[1]), np.float32)
    for position, column in enumerate(AWQ_ORDER):
        columns[:, column::8] = (packed >> (4 * position)) & 0xF
    return columns


def logits(folder: Path, ids: list[int]) -> NDArray[np.float32]:
    """After every token, by the float32 reference operations: [len(ids), vocab]."""
    model = load_llama(Checkpoint.open(folder), ReferenceOps(), None, 2048)
    cache = model.allocate_cache(len(ids), 1)
    every = np.arange(len(ids), dtype=np.int32)
    length = np.array([len(ids)], np.int32)
    batch = Batch(every, every, np.array([0, len(ids)], np.int32), length, every[None])
    return model.forward(np.array(ids, np.int32), batch, cache, every)


def layer_error(folder: Path, dense: Path, prompts: list[list[int]]) -> float:
    """Mean squared error of each layer's output where it reads what the dense model's layer reads, summed over layers.

    Relative to each token's own size. Prompts run behind their common beginning, as the calibration texts do.
    """
    group = CalibrationGroup(prefix := commonprefix(prompts), [ids[len(prefix) :] for ids in prompts])
    theirs, ours = (Checkpoint.open(one) for one in (dense, folder))
    model = load_without_layers(theirs, RecordingOps(), max(map(len, prompts)))
    x = embed_tokens(model, [group])
    total = 0.0
    with start_workers(None) as workers:
        for index in range(theirs.config.num_layers):
            after = x.copy()
            run_layer(model, load_layer(theirs, model.ops, index), x, [group], 32, workers)
            run_layer(model, load_layer(ours, model.ops, index), after, [group], 32, workers)
            total += float((np.square(after - x).mean(axis=1) / np.square(x).mean(axis=1)).mean())
    return total
