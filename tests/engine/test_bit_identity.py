"""A verdict's logits and a seeded text are the same bits, whatever runs beside them and wherever they come from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from adapters import write_adapter
from checkpoints import write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Request, RequestResult, SamplingParams
from guardhouse.errors import BackendError
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import Llama, load_llama
from guardhouse.model.lora import Adapter, load_adapter
from guardhouse.ops import load_ops

WINDOW = 160
PREFIX_LENGTH = 45
WARM = SamplingParams(max_tokens=6, temperature=0.9, top_p=0.9, seed=5, repetition_penalty=1.1)


@dataclass(frozen=True)
class World:
    """The same small AWQ model with one thread and with two, requests, and what each gives alone on a cold engine."""

    models: tuple[Llama, Llama]
    fingerprint: str
    prefix: np.ndarray
    requests: tuple[Request, ...]
    alone: tuple[RequestResult, ...]

    def engine(self, model: Llama, block_size: int = 16, budget: int = 512, num_blocks: int | None = None) -> Engine:
        config = EngineConfig(
            num_blocks=num_blocks or 6000 // block_size,
            max_model_len=WINDOW,
            block_size=block_size,
            max_num_batched_tokens=budget,
            model_fingerprint=self.fingerprint,
        )
        return Engine(model, config)

    def check(self, results: dict[int, RequestResult]) -> None:
        for index, result in results.items():
            expected = self.alone[index]
            assert result.logits.tobytes() == expected.logits.tobytes(), f"request {index} has other logits"
            assert result.token_ids == expected.token_ids, f"request {index} has another text"


def requests_of(vocab_size: int, adapters: list[Adapter]) -> tuple[np.ndarray, tuple[Request, ...]]:
    """Verdicts and texts with a common prefix, without, with a common beginning, and of every awkward length.

    Some run under an adapter; the last four are prompts that others have, too, under other adapters.
    """
    generator = np.random.default_rng(3)
    prefix = generator.integers(0, vocab_size, PREFIX_LENGTH).astype(np.int32)
    prompts = [np.append(prefix, generator.integers(0, vocab_size, size).astype(np.int32)) for size in (1, 3, 20, 70)]
    prompts += [generator.integers(0, vocab_size, size).astype(np.int32) for size in (1, 2, 16, 33, 100)]
    prompts += [prefix, prefix[:20]]
    requests = []
    for index, prompt in enumerate(prompts):
        last = len(prompt) - 1
        positions = (last, max(0, last - 3)) if index % 3 else (last // 2, last)
        adapter = adapters[index % 4 - 2] if index % 4 > 1 and index != 2 else None
        requests.append(Request(prompt, positions, sampling=WARM if index % 2 else None, adapter=adapter))
    requests += [replace(requests[index], adapter=adapter) for index in (2, 3) for adapter in adapters]
    return prefix, tuple(requests)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    try:
        ops = (load_ops("cpu", 1), load_ops("cpu", 2))
    except BackendError as error:
        pytest.skip(str(error))
    path = write_checkpoint(tmp_path_factory.mktemp("model"), quant=32)
    checkpoint = Checkpoint.open(path)
    models = (load_llama(checkpoint, ops[0], None), load_llama(checkpoint, ops[1], None))
    assert all(model.ops.is_deterministic for model in models)
    folders = [write_adapter(tmp_path_factory.mktemp(f"adapter{n}"), path, rank=3 + n, seed=n) for n in range(2)]
    adapters = [load_adapter(folder, checkpoint.config, ops[0]) for folder in folders]
    prefix, requests = requests_of(checkpoint.config.vocab_size, adapters)
    unfinished = World(models, checkpoint.fingerprint, prefix, requests, ())
    alone = []
    for request in requests:
        with unfinished.engine(models[0]) as engine:
            alone.append(engine.submit(request).result())
    return World(models, checkpoint.fingerprint, prefix, requests, tuple(alone))


def run(engine: Engine, world: World, order: list[int]) -> dict[int, RequestResult]:
    futures = [(index, engine.submit(world.requests[index])) for index in order]
    return {index: future.result() for index, future in futures}


EVERY = list(range(15))
orders = st.lists(st.sampled_from(EVERY), min_size=1, max_size=16)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=orders,
    block_size=st.sampled_from([1, 3, 16, 64]),
    budget=st.sampled_from([1, 2, 7, 64, 512]),
    threads=st.integers(0, 1),
    is_pinned=st.booleans(),
)
def test_batch_chunks_blocks_threads_and_caches_change_no_bit(
    world: World, order: list[int], block_size: int, budget: int, threads: int, is_pinned: bool
) -> None:
    with world.engine(world.models[threads], block_size, budget) as engine:
        if is_pinned:
            engine.pin(world.prefix)
        world.check(run(engine, world, order))
        world.check(run(engine, world, order[::-1]))  # now from the prefix cache
        engine.check_no_leaks()


def test_cached_verdict_is_really_cached(world: World) -> None:
    with world.engine(world.models[0]) as engine:
        cold = engine.submit(world.requests[3]).result()
        warm = engine.submit(world.requests[3]).result()
    assert cold.num_cached_tokens == 0
    assert warm.num_cached_tokens > 50
    world.check({3: cold})
    world.check({3: warm})


def test_preemption_changes_no_bit(world: World) -> None:
    long = SamplingParams(max_tokens=40, temperature=0.9, seed=8)
    requests = [
        replace(one, token_ids=one.token_ids[:30], logit_positions=(0,), sampling=long) for one in world.requests
    ]
    with world.engine(world.models[0]) as engine:
        alone = [engine.submit(request).result() for request in requests]
    with world.engine(world.models[0], block_size=4, num_blocks=40) as engine:
        futures = [engine.submit(request) for request in requests]
        for future, expected in zip(futures, alone, strict=True):
            assert future.result().token_ids == expected.token_ids
            assert future.result().logits.tobytes() == expected.logits.tobytes()
        assert engine.stats().num_preemptions > 0
        engine.check_no_leaks()


@pytest.mark.parametrize("block_size", [4, 16])
def test_prefix_pinned_from_disk_changes_no_bit(world: World, tmp_path: Path, block_size: int) -> None:
    saved = tmp_path / "prefix.npz"
    with world.engine(world.models[1], block_size) as engine:
        engine.pin(world.prefix, saved=saved)
    with world.engine(world.models[0], block_size) as engine:
        engine.pin(world.prefix, saved=saved)
        assert engine.stats().total_prompt_tokens == PREFIX_LENGTH
        results = run(engine, world, EVERY)
        world.check(results)
        assert results[2].num_cached_tokens == PREFIX_LENGTH


def test_neighbours_that_fail_and_leave_change_no_bit(world: World) -> None:
    with world.engine(world.models[0], block_size=4, budget=16) as engine:
        doomed = [engine.submit(Request(world.requests[3].token_ids, (50,), decide=fail)) for _ in range(3)]
        leaving = [engine.submit(world.requests[8]) for _ in range(3)]
        futures = [(index, engine.submit(world.requests[index])) for index in EVERY]
        for future in leaving:
            future.cancel()
        world.check({index: future.result() for index, future in futures})
        assert all(isinstance(future.exception(), ZeroDivisionError) for future in doomed)
        engine.check_no_leaks()


def fail(_: object) -> SamplingParams:
    raise ZeroDivisionError
