"""A guard with an adapter beside the one without: each gives its own verdicts, whatever the other does."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from adapters import write_adapter
from served import write_guard_checkpoint

from guardhouse.config import Settings
from guardhouse.engine.request import SamplingParams
from guardhouse.errors import AdapterError
from guardhouse.guard.guard import Guard
from guardhouse.guard.verdict import Verdict

TEXTS = ["how to make a cake", "how to make a bomb", "is the cake safe", "how to"]
RAW = SamplingParams(max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "guard", quant=32)


@pytest.fixture(scope="module")
def guard(folder: Path) -> Iterator[Guard]:
    with Guard.load(folder, settings=Settings(cache_dir=folder / "cache", threads=1)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tuned(guard: Guard, folder: Path) -> list[Guard]:
    folders = [write_adapter(folder.parent / f"adapter {seed}", folder, seed=seed, lora_alpha=1) for seed in (1, 2)]
    return [guard.with_adapter(guard.load_adapter(folder)) for folder in folders]


def test_verdicts_are_the_same_alone_and_among_those_of_other_adapters(guard: Guard, tuned: list[Guard]) -> None:
    every = [guard, *tuned]
    alone = [[one.check(text).score for text in TEXTS] for one in every]
    assert len({scores[0] for scores in alone}) == 3, "the adapters change nothing"
    futures: list[list[Future[Verdict]]] = [[] for _ in every]
    for text in TEXTS * 5:
        for one, mine in zip(every, futures, strict=True):
            mine.append(one.submit(text))
    together = [[future.result().score for future in mine] for mine in futures]
    assert together == [scores * 5 for scores in alone]


def test_texts_are_written_under_the_adapter(guard: Guard, tuned: list[Guard]) -> None:
    """This model always writes the same words; how likely it found them tells who wrote."""
    every = [guard, *tuned, guard]
    written = [one.generate("the cake", raw=True, sampling=RAW, num_logprobs=0).result().drawn for one in every]
    assert written[0] == written[3]
    assert len(set(written)) == 3


def test_a_prompt_of_the_callers_own_is_judged_under_the_adapter(guard: Guard, tuned: list[Guard]) -> None:
    assert guard.submit_prompt(TEXTS[0]).result().score == guard.check(TEXTS[0]).score
    assert tuned[0].submit_prompt(TEXTS[0]).result().score == tuned[0].check(TEXTS[0]).score


def test_a_guard_can_be_loaded_under_an_adapter(guard: Guard, tuned: list[Guard], folder: Path) -> None:
    settings = Settings(cache_dir=folder / "cache", threads=1, adapter=folder.parent / "adapter 1")
    with Guard.load(folder, settings=settings) as loaded:
        assert loaded.info.adapter == "adapter 1"
        assert [loaded.check(text).score for text in TEXTS] == [tuned[0].check(text).score for text in TEXTS]
        other = loaded.with_adapter(loaded.load_adapter(folder.parent / "adapter 2"))
        assert other.check(TEXTS[0]).score == tuned[1].check(TEXTS[0]).score


def test_a_guard_is_not_loaded_under_a_broken_adapter(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        Guard.load(folder, settings=Settings(cache_dir=folder / "cache", adapter=tmp_path))


def test_a_broken_adapter_is_refused(guard: Guard, folder: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, folder, rank=65)
    with pytest.raises(AdapterError, match="rank"):
        guard.load_adapter(tmp_path)
