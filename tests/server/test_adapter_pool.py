"""Which adapters are in memory: each loaded once, the least recently used ones dropped, failures not remembered."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from guardhouse.errors import AdapterError, InputError
from guardhouse.guard.guard import Guard
from guardhouse.server.adapters.pool import AdapterPool
from guardhouse.server.adapters.store import ASSETS, FinetuneStore
from guardhouse.server.errors import IncompleteFinetune, LoraUnsupported, UnknownFinetune

NAMES = ("model", "alias")


class LoadingGuard:
    """Notes what it loads; an adapter is its folder's name. `with_adapter` gives that name."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failures = 0

    def load_adapter(self, folder: Path) -> Any:
        self.loaded.append(folder.name)
        if self.failures:
            self.failures -= 1
            raise AdapterError("adapter_model.safetensors: broken")
        return folder.name

    def with_adapter(self, adapter: Any) -> Any:
        return adapter


@pytest.fixture
def store(tmp_path: Path) -> FinetuneStore:
    store = FinetuneStore(tmp_path)
    for name in "abc":
        finetune = store.create("model", name, "", public=False)
        for asset in ASSETS:
            (tmp_path / finetune.id / asset).touch()
    store.create("model", "empty", "", public=False)
    store.create("another", "other", "", public=False)
    return store


def ids(store: FinetuneStore, names: str) -> list[str]:
    return [store.find(name).id for name in names]


def adapted(pool: AdapterPool, guard: LoadingGuard, lora: str) -> Any:
    return pool.adapted(cast(Guard, guard), "model", NAMES, lora)


def test_the_least_recently_used_adapter_is_dropped(store: FinetuneStore) -> None:
    async def run() -> None:
        guard, pool = LoadingGuard(), AdapterPool(store, 2)
        for lora in "abacab":  # c drops b, b drops c
            assert await adapted(pool, guard, lora) == store.find(lora).id
        assert guard.loaded == ids(store, "abcb")

    asyncio.run(run())


def test_requests_that_come_together_load_once(store: FinetuneStore) -> None:
    async def run() -> None:
        guard, pool = LoadingGuard(), AdapterPool(store, 1)
        assert await asyncio.gather(*(adapted(pool, guard, "a") for _ in range(9))) == ids(store, "a") * 9
        assert guard.loaded == ids(store, "a")

    asyncio.run(run())


def test_one_who_goes_away_does_not_end_the_load_for_others(store: FinetuneStore) -> None:
    async def run() -> None:
        guard, pool = LoadingGuard(), AdapterPool(store, 1)
        leaving, staying = (asyncio.create_task(adapted(pool, guard, "a")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert [await staying] == ids(store, "a")

    asyncio.run(run())


def test_a_failure_is_not_remembered(store: FinetuneStore) -> None:
    async def run() -> None:
        guard, pool = LoadingGuard(), AdapterPool(store, 1)
        guard.failures = 1
        with pytest.raises(AdapterError):
            await adapted(pool, guard, "a")
        assert [await adapted(pool, guard, "a")] == ids(store, "a")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("lora", "max_loras", "error"),
    [
        ("a", 0, LoraUnsupported),
        ("nobody's", 1, UnknownFinetune),
        ("empty", 1, IncompleteFinetune),
        ("other", 1, InputError),
    ],
)
def test_what_cannot_be_used_is_refused(
    store: FinetuneStore, lora: str, max_loras: int, error: type[Exception]
) -> None:
    async def run() -> None:
        guard = LoadingGuard()
        with pytest.raises(error):
            await adapted(AdapterPool(store, max_loras), guard, lora)
        assert guard.loaded == []

    asyncio.run(run())


def test_what_another_process_created_is_found(store: FinetuneStore, tmp_path: Path) -> None:
    store.all()
    finetune = FinetuneStore(tmp_path).create("model", "new", "", public=False)
    assert store.find("new") == finetune
