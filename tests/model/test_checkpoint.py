"""What model/checkpoint.py promises: sound folders are read exactly, every kind of damage is refused by name."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import TinyModel, edit_json, random_tensors, write_checkpoint, write_json
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

from guardhouse.errors import CheckpointError
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.ops.table import DenseWeight, Int4Weight

Q_PROJ = "model.layers.0.self_attn.q_proj"
UP_PROJ = "model.layers.1.mlp.up_proj"
NORM = "model.layers.1.input_layernorm.weight"


def edit_tensors(folder: Path, **changes: NDArray[Any] | None) -> None:
    """Replace or add tensors; None removes one. `__` in a keyword stands for a dot."""
    path = folder / "model.safetensors"
    tensors: dict[str, Any] = dict(load_file(path)) | {name.replace("__", "."): new for name, new in changes.items()}
    save_file({name: array for name, array in tensors.items() if array is not None}, path)


def change_tensor(folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any] | None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit_tensors(folder, **{name: change(tensors[name])})


def shard(folder: Path) -> None:
    """Split model.safetensors into two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in halves.items() for name in part}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


# ---- sound folders


def test_quantised_linears_are_read_as_written(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, quant=32))
    stored = load_file(tmp_path / "model.safetensors")
    weight = checkpoint.linear(UP_PROJ)
    assert isinstance(weight, Int4Weight)
    assert weight.codes.shape == (64, 128)
    assert np.array_equal(weight.scales, stored[f"{UP_PROJ}.scales"].astype(np.float32))
    assert np.array_equal(weight.codes[:, 0], stored[f"{UP_PROJ}.qweight"][:, 0] & 15)


def test_one_group_per_input_is_read(tmp_path: Path) -> None:
    weight = Checkpoint.open(write_checkpoint(tmp_path, quant=-1)).linear("model.layers.0.mlp.down_proj")
    assert isinstance(weight, Int4Weight)
    assert weight.scales.shape == (1, 64)


def test_symmetric_checkpoints_may_leave_out_the_zeros(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quant=32)
    edit_tensors(tmp_path, **{f"{Q_PROJ}.qzeros": None})
    with pytest.raises(CheckpointError, match=f"{Q_PROJ}.qzeros"):
        Checkpoint.open(tmp_path)
    quantization = json.loads((tmp_path / "config.json").read_text())["quantization_config"] | {"zero_point": False}
    edit_json(tmp_path / "config.json", quantization_config=quantization)
    weight = Checkpoint.open(tmp_path).linear(Q_PROJ)
    assert isinstance(weight, Int4Weight)
    assert set(weight.zeros.flat) == {8}


def test_modules_that_were_not_converted_are_dense(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quant=32)
    dense = random_tensors(TinyModel(), vocab=407)[f"{Q_PROJ}.weight"]
    parts = {f"{Q_PROJ}.{part}": None for part in ("qweight", "qzeros", "scales")}
    edit_tensors(tmp_path, **parts, **{f"{Q_PROJ}.weight": dense})
    quantization = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    quantization["modules_to_not_convert"] = ["layers.0.self_attn.q_proj"]
    edit_json(tmp_path / "config.json", quantization_config=quantization)

    checkpoint = Checkpoint.open(tmp_path)
    fused = checkpoint.fused([Q_PROJ, Q_PROJ.replace("q_proj", "k_proj")])

    assert isinstance(checkpoint.linear(Q_PROJ), DenseWeight)
    assert isinstance(fused, DenseWeight)  # a linear that is half dense is dense
    assert fused.weight.shape == (64 + 32, 64)
    assert np.array_equal(fused.weight[:64], dense.astype(np.float32))


def test_shards_give_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    shard(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert all(np.array_equal(checkpoint.tensor(name), array) for name, array in whole.items())
    assert np.array_equal(checkpoint.embedding().weight, whole["model.embed_tokens.weight"])


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = {
        name: torch.from_numpy(array).bfloat16() for name, array in load_file(tmp_path / "model.safetensors").items()
    }
    save_torch_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    for name, array in tensors.items():
        assert np.array_equal(checkpoint.tensor(name), array.float().numpy())
    assert np.array_equal(checkpoint.embedding().weight, tensors["model.embed_tokens.weight"].float().numpy())


def test_the_embedding_table_stays_on_disk(tmp_path: Path) -> None:
    table = Checkpoint.open(write_checkpoint(tmp_path)).embedding().weight
    assert isinstance(table.base, np.memmap)
    assert not table.flags.writeable


def test_parameters_are_counted_as_torch_counts_them(tmp_path: Path) -> None:
    for index, fields in enumerate(({}, {"tied": True}, {"attention_bias": True, "mlp_bias": True})):
        folder = write_checkpoint(tmp_path / str(index), **fields)
        expected = sum(array.size for array in load_file(folder / "model.safetensors").values())
        assert Checkpoint.open(folder).num_parameters == expected


def test_left_over_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_tensors(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    Checkpoint.open(tmp_path)


def test_the_fingerprint_follows_weights_and_configuration(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "a")
    seen = {Checkpoint.open(first).fingerprint}
    assert Checkpoint.open(first).fingerprint in seen

    change_tensor(first, NORM, lambda array: array + np.float16(1))
    seen.add(Checkpoint.open(first).fingerprint)
    edit_json(first / "config.json", rope_theta=20000.0)
    seen.add(Checkpoint.open(first).fingerprint)
    os.utime(first / "model.safetensors", ns=(1, 1))
    seen.add(Checkpoint.open(first).fingerprint)
    assert len(seen) == 4


# ---- damage in tensors


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (f"{Q_PROJ}.qweight", lambda array: None, r"expected I32 \[64, 8\], found no such tensor"),
        (f"{Q_PROJ}.scales", lambda array: None, "found no such tensor"),
        (NORM, lambda array: None, "found no such tensor"),
        ("lm_head.weight", lambda array: None, "found no such tensor"),
        (f"{Q_PROJ}.qweight", lambda array: array[:-8], r"expected I32 \[64, 8\], found I32 \[56, 8\]"),
        (f"{UP_PROJ}.scales", lambda array: array[:1], r"expected F16 or BF16 or F32 \[2, 128\], found F16 \[1, 128\]"),
        ("model.embed_tokens.weight", lambda array: array[:-1], r"\[407, 64\], found F16 \[406, 64\]"),
        (f"{Q_PROJ}.qzeros", lambda array: array.astype(np.int64), "expected I32 .*, found I64"),
        (NORM, lambda array: array.astype(np.int32), "expected F16 or BF16 or F32 .*, found I32"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, name: str, change: Callable[..., Any], complaint: str) -> None:
    write_checkpoint(tmp_path, quant=32)
    change_tensor(tmp_path, name, change)
    with pytest.raises(CheckpointError, match=f"{name}: .*{complaint}"):
        Checkpoint.open(tmp_path)


def test_groups_that_do_not_fit_a_linear_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", quantization_config={"quant_method": "awq", "bits": 4, "group_size": 48})
    with pytest.raises(CheckpointError, match=f"{Q_PROJ}: .* cannot be AWQ with groups of 48"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    write_checkpoint(tmp_path, quant=32)
    scales = load_file(tmp_path / "model.safetensors")[f"{UP_PROJ}.scales"]
    scales[1, 7] = value
    edit_tensors(tmp_path, **{f"{UP_PROJ}.scales": scales})
    checkpoint = Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match=f"{UP_PROJ}.scales: holds NaN or infinite"):
        checkpoint.linear(UP_PROJ)


@pytest.mark.parametrize("name", [f"{Q_PROJ}.bias", f"{Q_PROJ}.g_idx", "model.layers.2.input_layernorm.weight"])
def test_a_tensor_that_the_configuration_does_not_account_for_is_refused(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    edit_tensors(tmp_path, **{name: np.zeros(64, np.float16)})
    with pytest.raises(CheckpointError, match=f"{name}: a tensor that config.json does not account for"):
        Checkpoint.open(tmp_path)


# ---- damage in files


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        Checkpoint.open(tmp_path / "nowhere")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        Checkpoint.open(tmp_path)


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin .* can run code and are never loaded"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a valid safetensors file"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "F16", "shape": [9999999999, 9999999999], "data_offsets": [0, 8]}}',
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: bytes) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "shard_name",
    ["../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "pytorch_model.bin", "", 3],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, shard_name: object) -> None:
    folder = write_checkpoint(tmp_path / "inner")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "model.safetensors")
    shard(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"][NORM] = shard_name
    write_json(folder / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match="is no file name of a safetensors shard"):
        Checkpoint.open(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    shard(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: no such file"):
        Checkpoint.open(tmp_path)


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    shard(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["stray"] = "model-00001-of-00002.safetensors"
    write_json(tmp_path / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match=r"stray: not in model-00001-of-00002.safetensors"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    write_checkpoint(tmp_path)
    shard(tmp_path)
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(CheckpointError, match="weight_map must be"):
        Checkpoint.open(tmp_path)
