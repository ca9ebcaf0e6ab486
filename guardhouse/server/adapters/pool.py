"""Adapters in memory: loaded when a request first names them, the least recently used ones dropped.

Knows: which finetune a request means, how many adapters may be loaded.
Never knows: HTTP, how an adapter is applied.
"""

import asyncio

from guardhouse.errors import InputError
from guardhouse.guard.guard import Guard
from guardhouse.model.lora import Adapter
from guardhouse.server.adapters.store import Finetune, FinetuneStore
from guardhouse.server.errors import LoraUnsupported


class AdapterPool:
    """Belongs to one event loop. An adapter that is dropped lives on until the last request under it is done."""

    def __init__(self, store: FinetuneStore, max_loras: int) -> None:
        """`max_loras`: adapters in memory at once; 0: no request may name one."""
        self.store = store
        self._max_loras = max_loras
        self._loaded: dict[str, asyncio.Task[Adapter]] = {}  # by id, least recently used first

    async def adapted(self, guard: Guard, model: str, names: tuple[str, ...], lora: str) -> Guard:
        """The guard with the finetune of this id or name. `names`: all names of the model that is served.

        Raises LoraUnsupported, UnknownFinetune, IncompleteFinetune, InputError where it was made for another model, or
        AdapterError where it does not fit the weights that are served now.
        """
        if not self._max_loras:
            raise LoraUnsupported(model)
        finetune = await asyncio.to_thread(self.store.find, lora)
        if finetune.model not in names:
            raise InputError(f"the finetune was made for another model: {finetune.model}")
        task = self._loaded.pop(finetune.id, None)
        if task is None:
            task = asyncio.create_task(self._load(guard, finetune))
            task.add_done_callback(_note_error)
        self._loaded[finetune.id] = task  # now the most recently used
        for oldest in list(self._loaded)[: -self._max_loras]:
            del self._loaded[oldest]
        try:
            return guard.with_adapter(await asyncio.shield(task))
        except Exception:
            if self._loaded.get(finetune.id) is task:
                del self._loaded[finetune.id]  # files may arrive, memory may become free
            raise

    def forget(self, finetune: Finetune) -> None:
        """Drop a finetune that was deleted."""
        self._loaded.pop(finetune.id, None)

    async def _load(self, guard: Guard, finetune: Finetune) -> Adapter:
        folder = await asyncio.to_thread(self.store.complete_folder, finetune)
        return await asyncio.to_thread(guard.load_adapter, folder)


def _note_error(task: asyncio.Task[Adapter]) -> None:
    """All who waited may have gone away: asyncio would complain that nobody took the error."""
    if not task.cancelled():
        task.exception()
