"""What benchmarks/make_checkpoint.py promises."""

import math
from pathlib import Path

import numpy as np
from checkpoints import write_checkpoint
from click.testing import CliRunner
from safetensors.numpy import load_file

from benchmarks.make_checkpoint import ITEM_BYTES, main, stored_dtype
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.layout import expected_tensors
from guardhouse.model.llama_config import read_config
from guardhouse.model.tokenizer import Tokenizer


def test_llama_guard_7b_has_the_published_size(shared_data: Path) -> None:
    specs = {spec.name: spec for spec in expected_tensors(read_config(shared_data / "llamaguard-7b"))}
    sizes = {name: math.prod(spec.shape) * ITEM_BYTES[stored_dtype(spec)] for name, spec in specs.items()}
    assert sum(sizes.values()) == 3_889_307_648
    assert sum(size for name, size in sizes.items() if name.startswith("model.layers.0.")) == 105_156_608
    assert specs["model.layers.31.mlp.down_proj.qweight"].shape == (11008, 512)
    assert specs["model.layers.0.mlp.up_proj.scales"].shape == (32, 11008)


def test_what_it_writes_is_a_whole_checkpoint(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", quant=32, hidden=64, intermediate=96)
    target = tmp_path / "target"
    result = CliRunner().invoke(main, [str(target), "--from", str(source), "--layers", "3", "--hidden", "128"])
    assert result.exit_code == 0, result.output
    checkpoint = Checkpoint.open(target)
    assert (checkpoint.config.num_layers, checkpoint.config.hidden_size) == (3, 128)
    assert f"{checkpoint.num_bytes:,}" in result.output
    assert Tokenizer.load(target).encode("safe") == Tokenizer.load(source).encode("safe")


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", quant=32)
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        CliRunner().invoke(main, [str(tmp_path / name), "--from", str(source), "--seed", seed])
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert sorted(a) == sorted(b) == sorted(c)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["lm_head.weight"], c["lm_head.weight"])
