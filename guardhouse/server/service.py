"""The one guard this server runs, from the moment it starts to load.

Knows: whether the guard is loading, ready or failed, and the names it answers to.
Never knows: HTTP.
"""

import threading
import time
from collections.abc import Callable
from typing import Literal

from guardhouse.config import Settings
from guardhouse.errors import GuardhouseError, UnknownModel
from guardhouse.guard.guard import Guard
from guardhouse.server.errors import ModelUnavailable

Progress = Callable[[int, int], None]  # (done, total)
GuardLoader = Callable[[Progress], Guard]


class ModelService:
    """Loads a guard in the background, so that the server can say at once that it is alive.

    Invariant: `guard` either returns a loaded, open guard or raises ModelUnavailable.
    """

    def __init__(self, load_guard: GuardLoader, settings: Settings) -> None:
        self._load_guard = load_guard
        self._aliases = settings.model_aliases
        self._guard: Guard | None = None
        self._failure: str | None = None
        self._progress = 0.0
        self._is_closed = False
        self._started_at = time.monotonic()
        self._lock = threading.Lock()

    def start(self, when_settled: Callable[[], None] | None = None) -> None:
        """Begin to load; `when_settled` is called on the loading thread once the guard is ready or has failed."""
        threading.Thread(target=self._run, args=(when_settled,), name="guardhouse-load", daemon=True).start()

    @property
    def guard(self) -> Guard:
        if self._guard is None:
            raise ModelUnavailable(self._failure or f"the model is loading ({self._progress:.0%})")
        return self._guard

    @property
    def status(self) -> Literal["loading", "ready", "failed"]:
        if self._failure is not None:
            return "failed"
        return "loading" if self._guard is None else "ready"

    @property
    def failure(self) -> str | None:
        return self._failure

    @property
    def progress(self) -> float:
        """0 to 1."""
        return self._progress

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started_at

    def guard_named(self, name: str) -> Guard:
        """The guard, if that is its own name or an alias. Raises UnknownModel, too."""
        guard = self._guard or self.guard
        if name != guard.info.name and name not in self._aliases:
            raise UnknownModel(name)
        return guard

    @property
    def names(self) -> tuple[str, ...]:
        """The guard's own name first, then its aliases."""
        return (self.guard.info.name, *self._aliases)

    def close(self) -> None:
        """Shut the guard; one that is still loading is shut as soon as it is there."""
        with self._lock:
            self._is_closed = True
            guard, self._guard = self._guard, None
        if guard is not None:
            guard.close()

    def _run(self, when_settled: Callable[[], None] | None) -> None:
        self._load()
        if when_settled is not None:
            when_settled()

    def _load(self) -> None:
        try:
            guard = self._load_guard(self._report)
            guard.prepare_grammars()
        except GuardhouseError as error:
            self._failure = str(error)
            return
        except Exception as error:  # a thread has nobody above it to report to; MemoryError and the like end here too
            self._failure = f"the model could not be loaded ({type(error).__name__})"
            return
        with self._lock:
            if not self._is_closed:
                self._guard = guard
                return
        guard.close()

    def _report(self, done: int, total: int) -> None:
        self._progress = done / total if total else 1.0
