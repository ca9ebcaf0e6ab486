"""Keep the default policy's prefixes in the engine's cache, one per role, from the first question of that role on.

Knows: frames, where saved prefixes lie.
Never knows: what is judged, verdicts.
"""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from guardhouse.engine.engine import Engine
from guardhouse.errors import EngineClosed
from guardhouse.guard.conversation import Role
from guardhouse.guard.judging import Judging, settle
from guardhouse.guard.prompt import FrameStore
from guardhouse.guard.verdict import Verdict


class Pins:
    """Which roles' prefixes are pinned. Pinning takes a forward pass, so it has a thread of its own."""

    def __init__(self, engine: Engine, frames: FrameStore, saved_dir: Path | None, device: str) -> None:
        """`saved_dir`: where prefixes are kept across restarts; None: they are computed faster than read."""
        self._engine = engine
        self._frames = frames
        self._saved_dir = saved_dir
        self._device = device
        self._pinned: set[Role] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guardhouse-pin")

    def pin(self, role: Role) -> None:
        """Compute and keep the role's prefix, or do nothing if it is there. Waits."""
        if role in self._pinned:
            return
        ids = np.array(self._frames.frame(role).head, dtype=np.int32)
        saved = None
        if self._saved_dir is not None:
            key = f"{self._engine.config.model_fingerprint}-{self._device}".encode() + ids.tobytes()
            saved = self._saved_dir / f"{hashlib.sha256(key).hexdigest()[:32]}.npz"
        self._engine.pin(ids, saved=saved)
        self._pinned.add(role)

    def start(self, judging: Judging, role: Role) -> Future[Verdict]:
        """Start a case; the first ones of a role wait until its prefix is pinned."""
        if role in self._pinned:
            return judging.start()
        try:
            pinning = self._thread.submit(self.pin, role)
        except RuntimeError as error:
            raise EngineClosed("the guard is closed") from error
        pinning.add_done_callback(partial(_start_once_pinned, judging))
        return judging.future

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _start_once_pinned(judging: Judging, pinning: Future[None]) -> None:
    """The case shares the pin's fate: an error of the pin, and that nobody pins any more, are its own."""
    try:
        if pinning.cancelled():
            raise EngineClosed("the guard was closed before the request began")
        pinning.result()
        judging.start()
    except BaseException as error:  # whatever it is, it belongs to whoever waits, not to the pinning thread
        settle(judging.future, error)
