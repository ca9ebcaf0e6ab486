"""A pinned prefix is computed once, kept for good, saved on disk, and never trusted from a damaged file."""

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import FakeModel, FakeOps
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.kv_cache import Layer, PrefixFile
from guardhouse.engine.request import Request
from guardhouse.errors import ConfigError, ContextOverflow, InputError

CONFIG = EngineConfig(num_blocks=16, block_size=4, max_model_len=60, max_num_batched_tokens=8, model_fingerprint="abc")
PREFIX = np.arange(1, 11, dtype=np.int32)  # two full blocks and a half


def ask(engine: Engine, model: FakeModel, *more: int) -> int:
    """The cached tokens of a request that starts with PREFIX; its logits are checked."""
    token_ids = np.append(PREFIX, np.array(more, np.int32)).astype(np.int32)
    result = engine.submit(Request(token_ids, (len(token_ids) - 1,))).result()
    np.testing.assert_array_equal(result.logits[0], model.logits_after(token_ids))
    return result.num_cached_tokens


def test_requests_that_start_with_the_prefix_do_not_compute_it() -> None:
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        assert engine.pin(PREFIX) == 10
        assert engine.pin(PREFIX) == 10
        assert engine.stats().num_pinned_blocks == 3
        for start in range(0, 40, 5):  # enough to evict whatever is not pinned
            engine.submit(Request(np.arange(start, start + 10, dtype=np.int32))).result()
        assert ask(engine, model, 20, 21, 22) == 10
        assert ask(engine, model, 30) == 10
        assert ask(engine, model) == 9
        engine.check_no_leaks()


def test_prefix_of_whole_blocks_can_be_pinned() -> None:
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        engine.submit(Request(PREFIX[:8])).result()  # cached already: all but the last token is found
        assert engine.pin(PREFIX[:8]) == 8
        assert engine.stats().num_pinned_blocks == 2
        assert ask(engine, model) == 8
        engine.check_no_leaks()


def test_longest_of_several_prefixes_is_used() -> None:
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        engine.pin(PREFIX[:9])
        engine.pin(PREFIX)
        assert engine.stats().num_pinned_blocks == 4  # the full blocks are shared
        assert ask(engine, model, 3) == 10
        engine.check_no_leaks()


def test_prefix_must_fit() -> None:
    with Engine(FakeModel(), CONFIG) as engine:
        with pytest.raises(InputError):
            engine.pin(PREFIX[:0])
        with pytest.raises(ContextOverflow):
            engine.pin(np.zeros(61, np.int32))


def test_saved_prefix_is_loaded_instead_of_computed(tmp_path: Path) -> None:
    saved = tmp_path / "new" / "prefix.npz"
    with Engine(FakeModel(), CONFIG) as engine:
        engine.pin(PREFIX, saved=saved)
    assert [path.name for path in saved.parent.iterdir()] == ["prefix.npz"]
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        assert engine.pin(PREFIX, saved=saved) == 10
        assert not model.step_sizes
        assert ask(engine, model, 20, 21) == 10
        assert engine.stats().num_pinned_blocks == 3
        engine.check_no_leaks()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickle_it(path: Path) -> None:
    np.savez(path, key=np.array(["x"], dtype=object))


def drop_an_array(path: Path) -> None:
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files if name != "values.0"})


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, pickle_it, drop_an_array])
def test_damaged_file_is_computed_again_and_replaced(tmp_path: Path, damage: Any) -> None:
    saved = tmp_path / "prefix.npz"
    with Engine(FakeModel(), CONFIG) as engine:
        engine.pin(PREFIX, saved=saved)
    whole = saved.read_bytes()
    damage(saved)
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        engine.pin(PREFIX, saved=saved)
        assert sum(model.step_sizes) == 10
        assert ask(engine, model, 20) == 10
    assert len(saved.read_bytes()) == len(whole)
    model = FakeModel()
    with Engine(model, CONFIG) as engine:
        engine.pin(PREFIX, saved=saved)
        assert not model.step_sizes


@pytest.mark.parametrize("change", ["weights", "kernels", "ids", "block size"])
def test_prefix_of_something_else_is_not_used(tmp_path: Path, change: str) -> None:
    saved = tmp_path / "prefix.npz"
    with Engine(FakeModel(), CONFIG) as engine:
        engine.pin(PREFIX, saved=saved)
    model = FakeModel()
    model.ops = FakeOps(version="2") if change == "kernels" else model.ops
    config = replace(CONFIG, model_fingerprint="def") if change == "weights" else CONFIG
    config = replace(config, block_size=5) if change == "block size" else config
    prefix = PREFIX[::-1].copy() if change == "ids" else PREFIX
    with Engine(model, config) as engine:
        engine.pin(prefix, saved=saved)
        assert sum(model.step_sizes) == 10


def test_saving_needs_to_know_the_weights(tmp_path: Path) -> None:
    with Engine(FakeModel(), replace(CONFIG, model_fingerprint="")) as engine:
        with pytest.raises(ConfigError, match="model_fingerprint"):
            engine.pin(PREFIX, saved=tmp_path / "prefix.npz")
        engine.pin(PREFIX)


def test_file_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a folder")
    with Engine(FakeModel(), CONFIG) as engine:
        assert engine.pin(PREFIX, saved=tmp_path / "file" / "prefix.npz") == 10
    assert "could not save" in caplog.text


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_what_is_loaded(
    place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = PrefixFile(tmp_path_factory.mktemp("flip", numbered=True) / "prefix.npz", "key")
    layers = layers_of(2, (3, 1, 4, 1))
    file.save(layers)
    data = bytearray(file.path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    file.path.write_bytes(data)
    loaded: list[Layer] = []
    if file.load((2, 3, 1, 4, 1), lambda _, layer: loaded.append(layer)):  # a time stamp, say
        np.testing.assert_array_equal(loaded, layers)


def test_arrays_of_another_shape_or_kind_are_not_loaded(tmp_path: Path) -> None:
    file, shape = PrefixFile(tmp_path / "prefix.npz", "key"), (3, 1, 4, 1)
    file.save(layers_of(2, shape))
    assert file.load((2, *shape), ignore)
    assert not replace(file, key="other key").load((2, *shape), ignore)
    assert not file.load((2, 2, 1, 4, 1), ignore)
    assert not file.load((3, *shape), ignore)
    file.save([(keys, values.astype(np.int8)) for keys, values in layers_of(2, shape)])
    assert not file.load((2, *shape), ignore)


def test_whatever_taking_a_layer_raises_means_that_nothing_was_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = PrefixFile(tmp_path / "prefix.npz", "key")
    file.save(layers_of(2, (3, 1, 4, 1)))

    def fail(_: int, __: Layer) -> None:
        raise RuntimeError("the device is unwell")

    assert not file.load((2, 3, 1, 4, 1), fail)
    assert "the device is unwell" in caplog.text


def test_prefix_is_written_and_read_one_layer_at_a_time(tmp_path: Path) -> None:
    num_layers, shape = 64, (64, 1, 128, 8)  # 256 KiB of a layer, 16 MiB of all
    layer_bytes = 2 * 2 * math.prod(shape)
    file = PrefixFile(tmp_path / "prefix.npz", "key")
    tracemalloc.start()
    try:
        file.save((np.full(shape, index, np.float16), np.zeros(shape, np.float16)) for index in range(num_layers))
        assert file.load((num_layers, *shape), ignore)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layer_bytes < peak < 8 * layer_bytes


def layers_of(count: int, shape: tuple[int, ...]) -> list[Layer]:
    numbers = np.arange(2 * count * math.prod(shape), dtype=np.float16).reshape(count, 2, *shape)
    return [(keys, values) for keys, values in numbers]


def ignore(_: int, __: Layer) -> None:
    pass
