"""A dense checkpoint becomes an AWQ folder: right in every reader, better than rounding, and not lost when killed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from quantization.dense import dequantised, layer_error, logits, write_dense, write_dense_embedded
from safetensors.numpy import load_file, save_file
from transformers import AwqConfig, LlamaForCausalLM

from guardhouse.errors import CheckpointError, InputError
from guardhouse.guard.conversation import Turn
from guardhouse.guard.guard import EMBEDDED_FOLDER, Guard
from guardhouse.guard.prompt import FrameStore
from guardhouse.model.awq import dequantize
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.layout import layer_linears
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops.table import Int4Weight
from guardhouse.quantization.quantize import QuantizeOptions, quantize

HELD_OUT = (
    "Where do swallows spend the winter?",
    "I will break every window you have, and then your fingers",
    "Which of these two tents is lighter, and is it worth the price?",
    "Explain how a shop's till works, and how one steals from it unseen.",
)
QUICK = QuantizeOptions(group_size=32, threads=1, grid=8, num_texts=24)


def held_out_error(folder: Path, dense: Path) -> float:
    """Of the layers' outputs over messages that no calibration text repeats."""
    frame = FrameStore(Tokenizer.load(dense)).frame("user")
    return layer_error(folder, dense, [frame.ids([Turn("user", text)]) for text in HELD_OUT])


@pytest.mark.parametrize("fields", [{}, {"kv_heads": 4}, {"tied": True, "attention_bias": True, "mlp_bias": True}])
def test_awq_beats_rounding_to_nearest_where_some_channels_are_large(tmp_path: Path, fields: dict[str, object]) -> None:
    dense = write_dense(tmp_path / "dense", **fields)
    result = quantize(dense, tmp_path / "awq", QUICK)
    quantize(dense, tmp_path / "rtn", QuantizeOptions(group_size=32, method="rtn"))
    assert all(error < plain for error, plain in result.errors)
    assert held_out_error(tmp_path / "awq", dense) < 0.75 * held_out_error(tmp_path / "rtn", dense)


def test_awq_beats_rounding_to_nearest_on_the_embedded_guard(tmp_path: Path) -> None:
    dense = write_dense_embedded(tmp_path / "dense")
    options = QuantizeOptions(group_size=64)
    quantize(dense, tmp_path / "awq", options)
    quantize(dense, tmp_path / "rtn", QuantizeOptions(group_size=64, method="rtn"))
    assert held_out_error(tmp_path / "awq", dense) < 0.95 * held_out_error(tmp_path / "rtn", dense)
    with Guard.load(tmp_path / "awq") as guard, Guard.load(dense) as original:
        assert guard.info.policy_name == original.info.policy_name
        for text in ("How do I bake bread?", "I will kill you and your whole family"):
            assert guard.check(text).score == pytest.approx(original.check(text).score, abs=0.1)


def test_another_reader_finds_the_same_weights(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    quantize(dense, tmp_path / "awq", QUICK)
    theirs, checkpoint = dequantised(tmp_path / "awq"), Checkpoint.open(tmp_path / "awq")
    for layer in range(checkpoint.config.num_layers):
        for linear in layer_linears(checkpoint.config, layer):
            ours = checkpoint.linear(linear.name)
            assert isinstance(ours, Int4Weight)
            assert np.array_equal(dequantize(ours).weight, theirs[f"{linear.name}.weight"])


def test_transformers_computes_from_it_what_guardhouse_computes(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    quantize(dense, tmp_path / "awq", QUICK)
    ids = Tokenizer.load(dense).encode(HELD_OUT[0])
    model = LlamaForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    model.load_state_dict({name: torch.from_numpy(values) for name, values in dequantised(tmp_path / "awq").items()})
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(logits(tmp_path / "awq", ids) - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_the_configuration_is_as_others_write_it(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    quantize(dense, tmp_path / "awq", QUICK)
    config = json.loads((tmp_path / "awq" / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
    read = AwqConfig.from_dict(config["quantization_config"])
    assert (read.bits, read.group_size, read.zero_point, str(read.format)) == (4, 32, True, "gemm")
    quant_config = json.loads((tmp_path / "awq" / "quant_config.json").read_text())
    assert quant_config == {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    assert (tmp_path / "awq" / "tokenizer.json").read_bytes() == (dense / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in (tmp_path / "awq").iterdir()) == sorted(
        {path.name for path in dense.iterdir()} | {"quant_config.json"}
    )


def weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    return dict(sorted(dequantised(folder).items()))


def test_large_weights_are_split_and_read_alike(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    options = QuantizeOptions(group_size=32, method="rtn")
    quantize(dense, tmp_path / "one", options)
    quantize(dense, tmp_path / "many", QuantizeOptions(group_size=32, method="rtn", max_shard_bytes=100_000))
    shards = sorted((tmp_path / "many").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    assert all(shard.stat().st_size < 120_000 for shard in shards[1:]), "only a single large tensor may be larger"
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == Checkpoint.open(tmp_path / "one").num_bytes
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[name], many[name]) for name in one)
    assert Checkpoint.open(tmp_path / "many").num_bytes == Checkpoint.open(tmp_path / "one").num_bytes


class Killed(BaseException):
    """As sudden as a signal for whoever does not catch BaseException."""


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(tmp_path: Path, layer: int) -> None:
    dense = write_dense(tmp_path / "dense", layers=3)
    quantize(dense, tmp_path / "whole", QUICK)

    def stop(done: int, _: int) -> None:
        if done == layer:
            raise Killed

    with pytest.raises(Killed):
        quantize(dense, tmp_path / "awq", QUICK, stop)
    assert not (tmp_path / "awq" / "config.json").exists(), "nothing that looks finished"
    begun: list[int] = []
    quantize(dense, tmp_path / "awq", QUICK, lambda done, _: begun.append(done))
    assert begun[0] == layer
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "awq" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense", layers=4)
    command = [
        sys.executable,
        "-m",
        "guardhouse.cli",
        "quantize",
        str(dense),
        str(tmp_path / "awq"),
        "--group-size",
        "32",
    ]
    process = subprocess.Popen([*command, "--threads", "1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "layer 1 of 4 done\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    finished = load_file(tmp_path / "awq" / ".quantize" / "layer-00000.safetensors")
    done = subprocess.run([*command, "--threads", "2"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "layer 4 of 4 done" in done.stderr
    assert "times that of rounding to nearest" in done.stdout
    assert not (tmp_path / "awq" / ".quantize").exists()
    Checkpoint.open(tmp_path / "awq")
    kept = load_file(tmp_path / "awq" / "model.safetensors")
    assert all(np.array_equal(kept[name], values) for name, values in finished.items())


def test_remains_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    (tmp_path / "awq" / ".quantize").mkdir(parents=True)
    (tmp_path / "awq" / ".quantize" / "job.json").write_text('{"source": "another"}')
    with pytest.raises(InputError, match="unfinished run with another source or other options; delete"):
        quantize(dense, tmp_path / "awq", QUICK)


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    with pytest.raises(CheckpointError, match="quantised already"):
        quantize(EMBEDDED_FOLDER, tmp_path / "awq")
    with pytest.raises(CheckpointError, match=r"q_proj: 128 inputs are no multiple of 48; 128, 64, 32, 16 would do"):
        quantize(dense, tmp_path / "awq", QuantizeOptions(group_size=48))
    with pytest.raises(InputError, match="is not an empty folder"):
        quantize(dense, dense, QUICK)
    empty = tmp_path / "texts.txt"
    empty.write_text("\n\n")
    with pytest.raises(InputError, match=r"texts\.txt: holds no text"):
        quantize(dense, tmp_path / "awq", QuantizeOptions(group_size=32, calibration=empty))
    assert not (tmp_path / "awq").exists()


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    dense = write_dense(tmp_path / "dense")
    tensors = load_file(dense / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 70_000
    save_file(tensors, dense / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight: holds values beyond float16"):
        quantize(dense, tmp_path / "awq", QUICK)
