"""The parts of the search: what linears read, what folding changes, which candidates win."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization.dense import logits, write_dense
from safetensors.numpy import load_file, save_file

from guardhouse.errors import InputError
from guardhouse.guard.conversation import Turn
from guardhouse.guard.prompt import FrameStore
from guardhouse.model.awq import dequantize, quantize_rtn
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.layout import layer_linears, layer_norms
from guardhouse.model.llama import load_layer, load_without_layers
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.quantization.activations import (
    INPUTS,
    CalibrationGroup,
    RecordingOps,
    embed_tokens,
    few_texts,
    run_layer,
)
from guardhouse.quantization.calibration import encode_texts, read_texts
from guardhouse.quantization.layers import INPUT_OF, LINEARS, fold_scales, load_parts, owners, value_owners
from guardhouse.quantization.search import Searcher, output_error
from guardhouse.quantization.workers import start_workers

GROUPS = [CalibrationGroup([1, 5, 9, 20], [[30, 31], [40, 41, 42]]), CalibrationGroup([], [[7, 8]])]


def test_texts_that_share_a_beginning_run_as_if_each_had_its_own(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_dense(tmp_path / "dense"))
    model = load_without_layers(checkpoint, RecordingOps(), 64)
    x = embed_tokens(model, GROUPS)
    with start_workers(2) as workers:
        for index in range(checkpoint.config.num_layers):
            statistics = run_layer(model, load_layer(checkpoint, model.ops, index), x, GROUPS, 32, workers)
    normed = model.ops.rms_norm(x, checkpoint.vector("model.norm.weight"), checkpoint.config.rms_norm_eps)
    found = normed @ checkpoint.tensor("lm_head.weight").T
    rows_of = {
        (1, 5, 9, 20, 30, 31): [0, 1, 2, 3, 4, 5],
        (1, 5, 9, 20, 40, 41, 42): [0, 1, 2, 3, 6, 7, 8],
        (7, 8): [9, 10],
    }
    for sequence, rows in rows_of.items():
        wanted = logits(tmp_path / "dense", list(sequence))
        assert np.abs(found[rows] - wanted).max() < 1e-3 * np.abs(wanted).max()
    assert set(statistics) == set(INPUTS)
    assert statistics["down"].samples.shape == (11, checkpoint.config.intermediate_size)
    assert statistics["down"].mean_abs == pytest.approx(np.abs(statistics["down"].samples).mean(axis=0), rel=1e-5)
    first = statistics["down"].samples[:, :32]
    assert statistics["down"].moments[0] == pytest.approx(first.T @ first, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "fields", [{"kv_heads": 1}, {"kv_heads": 2, "attention_bias": True, "mlp_bias": True}, {"kv_heads": 4}]
)
def test_folding_scales_changes_no_output(tmp_path: Path, fields: dict[str, object]) -> None:
    dense = write_dense(tmp_path / "dense", **fields)
    checkpoint, ids = Checkpoint.open(dense), list(range(3, 60))
    tensors, generator = load_file(dense / "model.safetensors"), np.random.default_rng(2)
    for index in range(checkpoint.config.num_layers):
        scales = {
            source: generator.uniform(0.2, 5, owner.max() + 1).astype(np.float32)[owner]
            for source, owner in owners(checkpoint.config).items()
        }
        parts = fold_scales(load_parts(checkpoint, index), scales, checkpoint.config)
        for name, linear in zip(LINEARS, layer_linears(checkpoint.config, index), strict=True):
            tensors[f"{linear.name}.weight"] = parts.weights[name]
            if name in parts.biases:
                tensors[f"{linear.name}.bias"] = parts.biases[name]
        for name, norm in zip(layer_norms(index), (parts.attention_norm, parts.mlp_norm), strict=True):
            tensors[f"{name}.weight"] = norm
    wanted = logits(dense, ids)
    save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})
    assert np.abs(logits(dense, ids) - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_a_few_texts_come_with_their_own_rows() -> None:
    groups = [CalibrationGroup([1, 2], [[3], [4, 5], [6]]), CalibrationGroup([], [[7, 8]])]
    chosen, rows = few_texts(groups, 2)
    assert chosen == [CalibrationGroup([1, 2], [[3], [6]]), CalibrationGroup([], [[7, 8]])]
    assert rows.tolist() == [0, 1, 2, 5, 6, 7]


def test_query_heads_of_a_group_own_the_same_value_channels(tmp_path: Path) -> None:
    config = Checkpoint.open(write_dense(tmp_path / "dense", heads=4, kv_heads=2)).config
    owners = value_owners(config).reshape(4, config.head_dim)
    assert np.array_equal(owners[0], np.arange(config.head_dim))
    assert np.array_equal(owners[1], owners[0])
    assert np.array_equal(owners[3], owners[0] + config.head_dim)
    assert set(INPUT_OF) == set(LINEARS)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_outputs=st.sampled_from([8, 72, 130]), outliers=st.integers(0, 8))
def test_a_search_is_never_worse_than_what_it_started_from(seed: int, num_outputs: int, outliers: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((num_outputs, 64), np.float32)
    samples = generator.standard_normal((40, 64), np.float32)
    samples[:, :outliers] *= 30
    moments = np.stack([part.T @ part for part in np.split(samples, 2, axis=1)])
    with start_workers(2) as workers:
        searcher = Searcher(workers, group_size=32, grid=8)
        choice = searcher.scales([weight], np.abs(samples).mean(axis=0), samples, np.arange(64))
        shrink = searcher.shrink(weight, moments)
    plain = output_error(weight, dequantize(quantize_rtn(weight, 32)).weight, samples)
    scaled = dequantize(quantize_rtn(weight * choice.scales, 32)).weight / choice.scales
    assert choice.plain_error == pytest.approx(plain, rel=1e-3)
    assert output_error(weight, scaled, samples) == pytest.approx(choice.error, rel=1e-3)
    assert choice.error <= choice.plain_error
    assert group_error(weight, shrink, moments) <= group_error(weight, np.ones_like(shrink), moments) * (1 + 1e-5)


def group_error(weight: np.ndarray, shrink: np.ndarray, moments: np.ndarray) -> float:
    difference = (dequantize(quantize_rtn(weight, 32, shrink)).weight - weight).reshape(len(weight), 2, 32)
    return float(np.einsum("ogi,gij,ogj->", difference, moments, difference))


def test_calibration_reads_texts_as_the_guard_does(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_dense(tmp_path / "dense"))
    conversations = [(Turn("user", "a cake"),), (Turn("user", "how"), Turn("assistant", "make it"))]
    by_user, by_agent = encode_texts(tokenizer, conversations, 100)
    frames = FrameStore(tokenizer)
    assert [*by_user.prefix, *by_user.endings[0]] == frames.frame("user").ids(conversations[0])
    assert [*by_agent.prefix, *by_agent.endings[0]] == frames.frame("assistant").ids(conversations[1])
    [short] = encode_texts(tokenizer, [(Turn("user", "a cake " * 100),)], 10)
    assert len(short.endings[0]) == 10 + len(frames.frame("user").tail)


def test_a_checkpoint_without_a_guards_template_reads_bare_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_dense(tmp_path / "dense", template=None))
    [group] = encode_texts(tokenizer, [(Turn("user", "a cake"),)], 100)
    assert [*group.prefix, *group.endings[0]] == tokenizer.encode("a cake", bos=True)


def test_calibration_files_of_all_kinds_and_the_built_in_texts_are_read(tmp_path: Path) -> None:
    lines = tmp_path / "a.txt"
    lines.write_text("one\n\ntwo\n")
    assert read_texts(lines) == [(Turn("user", "one"),), (Turn("user", "two"),)]
    table = tmp_path / "a.csv"
    table.write_text("prompt,response\none,\ntwo,three\n")
    assert read_texts(table) == [(Turn("user", "one"),), (Turn("user", "two"), Turn("assistant", "three"))]
    assert read_texts(table, limit=1) == [(Turn("user", "one"),)]
    built_in = read_texts()
    assert len(built_in) > 80
    assert {turns[-1].role for turns in built_in} == {"user", "assistant"}
    table.write_text("words\nx\n")
    with pytest.raises(InputError, match=r"a\.csv:2: calibration rows need a text in one of prompt"):
        read_texts(table)
    with pytest.raises(InputError, match=r"a\.pdf: calibration texts are"):
        read_texts(tmp_path / "a.pdf")
