"""Requests under adapters: nothing that was computed under one is ever used under another."""

from pathlib import Path

import numpy as np
from fake_model import FakeAdapter, FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Request, SamplingParams

PREFIX = [7, 3, 9, 1, 4, 4, 8, 2, 6, 5]
prompts = st.tuples(st.integers(0, len(PREFIX)), st.lists(st.integers(0, 3), min_size=1, max_size=8)).map(
    lambda parts: [*PREFIX[: parts[0]], *parts[1]]
)
requests = st.lists(st.tuples(prompts, st.integers(0, 3)), min_size=1, max_size=12)


def adapter_of(number: int) -> FakeAdapter | None:
    return FakeAdapter(number) if number else None


def expected(model: FakeModel, prompt: list[int], number: int) -> np.ndarray:
    return model.logits_after(np.array(prompt) + 1000 * number)


@settings(max_examples=60, deadline=None)
@given(requests=requests, block_size=st.integers(1, 5), num_blocks=st.integers(20, 60), is_pinned=st.booleans())
def test_logits_come_from_no_other_adapters_cache(
    requests: list[tuple[list[int], int]], block_size: int, num_blocks: int, is_pinned: bool
) -> None:
    model = FakeModel()
    config = EngineConfig(num_blocks=num_blocks, max_model_len=20, block_size=block_size, max_num_batched_tokens=7)
    with Engine(model, config) as engine:
        if is_pinned and block_size > 1:
            engine.pin(np.array(PREFIX, np.int32))
        for _ in range(2):  # the second time from the cache
            futures = [
                engine.submit(
                    Request(
                        np.array(prompt, np.int32),
                        (len(prompt) - 1,),
                        sampling=SamplingParams(max_tokens=2) if number % 2 else None,
                        adapter=adapter_of(number),
                    )
                )
                for prompt, number in requests
            ]
            for future, (prompt, number) in zip(futures, requests, strict=True):
                assert np.array_equal(future.result().logits[0], expected(model, prompt, number))
        engine.check_no_leaks()


def test_an_adapters_prompts_share_their_own_cache_and_no_other() -> None:
    prompt = np.arange(40, dtype=np.int32)
    with Engine(FakeModel(), EngineConfig(num_blocks=64, max_model_len=64, block_size=4)) as engine:
        engine.pin(prompt[:20])

        def num_cached(number: int) -> int:
            return engine.submit(Request(prompt, adapter=adapter_of(number))).result().num_cached_tokens

        assert [num_cached(number) for number in (1, 2, 0, 1, 2, 0)] == [0, 0, 20, 39, 39, 39]


def test_an_adapter_that_was_unloaded_finds_its_cache_again() -> None:
    prompt = np.arange(40, dtype=np.int32)
    with Engine(FakeModel(), EngineConfig(num_blocks=64, max_model_len=64, block_size=4)) as engine:
        first, again = FakeAdapter(1), FakeAdapter(1)
        assert first is not again
        engine.submit(Request(prompt, adapter=first)).result()
        assert engine.submit(Request(prompt, adapter=again)).result().num_cached_tokens == 39


def test_a_prefix_is_pinned_and_saved_for_the_models_own_weights_only(tmp_path: Path) -> None:
    prefix = np.arange(8, dtype=np.int32)
    config = EngineConfig(num_blocks=64, max_model_len=64, block_size=4, model_fingerprint="f")
    model = FakeModel()
    for _ in range(2):  # computed, then read from disk
        with Engine(model, config) as engine:
            engine.pin(prefix, saved=tmp_path / "prefix.npz")
            prompt = [*range(8), 9]
            result = engine.submit(Request(np.array(prompt, np.int32), (8,), adapter=FakeAdapter(1))).result()
            assert result.num_cached_tokens == 0
            assert np.array_equal(result.logits[0], expected(model, prompt, 1))
