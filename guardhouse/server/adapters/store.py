"""Finetunes on disk: what was created, and the adapter files that were uploaded for each.

Knows: a folder, names and ids, which files an adapter consists of.
Never knows: HTTP, what is in the files.

    <folder>/<id>/finetune.json               written first
    <folder>/<id>/adapter_config.json         each moved into place once it was checked, never replaced
    <folder>/<id>/adapter_model.safetensors
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from guardhouse.errors import InputError
from guardhouse.model.lora import WEIGHTS_FILE
from guardhouse.model.lora_config import CONFIG_FILE
from guardhouse.server.errors import IncompleteFinetune, UnknownFinetune

ASSETS = (CONFIG_FILE, WEIGHTS_FILE)
MAX_FINETUNES = 100  # as the reference service's limit for an account
DESCRIPTION = "finetune.json"
ABANDONED_AFTER_S = 3600.0  # an upload that nobody has gone on with for so long was broken off


class Finetune(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter as the wire describes it."""

    id: str
    model: str
    name: str
    description: str
    public: bool
    created_at: str  # ISO 8601, UTC
    modified_at: str


class FinetuneStore:
    """Thread-safe; every method may wait for the disk, so none belongs on an event loop."""

    def __init__(self, folder: Path) -> None:
        """The folder is made with the first finetune."""
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, Finetune] | None = None  # by id, oldest first; None: not read yet

    def create(self, model: str, name: str, description: str, *, public: bool) -> Finetune:
        """Raises InputError where the name is taken or there are too many."""
        with self._lock:
            known = self._read()
            if any(name == one.name for one in known.values()):
                raise InputError("a finetune of that name exists already")
            if len(known) >= MAX_FINETUNES:
                raise InputError(f"there are {MAX_FINETUNES} finetunes already: delete one")
            now = _now()
            finetune = Finetune(
                id=str(uuid.uuid4()),
                model=model,
                name=name,
                description=description,
                public=public,
                created_at=now,
                modified_at=now,
            )
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._folder / finetune.id).mkdir(mode=0o700)
            self._write(finetune)
            known[finetune.id] = finetune
            return finetune

    def all(self) -> list[Finetune]:
        """Oldest first."""
        with self._lock:
            return list(self._read().values())

    def find(self, id_or_name: str) -> Finetune:
        """An id counts before a name. Raises UnknownFinetune."""
        with self._lock:
            known = self._known
            found = None if known is None else _find(known, id_or_name)
            found = found or _find(self._read(), id_or_name)
        if found is None:
            raise UnknownFinetune(id_or_name)
        return found

    def complete_folder(self, finetune: Finetune) -> Path:
        """Where all of its files are. Raises IncompleteFinetune, or UnknownFinetune if it was deleted."""
        folder = self._folder / finetune.id
        missing = [name for name in ASSETS if not (folder / name).exists()]
        if not (folder / DESCRIPTION).exists():
            raise UnknownFinetune(finetune.id)
        if missing:
            raise IncompleteFinetune(missing)
        return folder

    def add_asset(self, finetune: Finetune, name: str, source: BinaryIO, check: Callable[[Path], object]) -> None:
        """Store one file, if `check` accepts it: it gets a folder with this file and those that are there already.

        What it raises is passed on, and nothing is kept. Raises InputError for a file that is there already.
        """
        assert name in ASSETS
        self._refuse_replacement(finetune, name)
        with self._staging(finetune) as staging:
            with _create(staging / name) as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            with self._lock:  # two files that arrive together: the second is checked with the first beside it
                self._refuse_replacement(finetune, name)
                for other in ASSETS:
                    if (self._folder / finetune.id / other).exists():
                        os.link(self._folder / finetune.id / other, staging / other)
                check(staging)
                (staging / name).replace(self._folder / finetune.id / name)
                changed = msgspec.structs.replace(finetune, modified_at=_now())
                self._write(changed)
                self._read()[finetune.id] = changed

    def delete(self, finetune: Finetune) -> None:
        """Description first: what is left of a deletion that was broken off is no finetune."""
        with self._lock:
            (self._folder / finetune.id / DESCRIPTION).unlink(missing_ok=True)
            shutil.rmtree(self._folder / finetune.id, ignore_errors=True)
            self._known = None

    def _refuse_replacement(self, finetune: Finetune, name: str) -> None:
        if (self._folder / finetune.id / name).exists():
            raise InputError(f"{name} was uploaded already and cannot be replaced: create a new finetune")

    def _read(self) -> dict[str, Finetune]:
        self._delete_abandoned()
        found = []
        for path in self._folder.glob(f"*/{DESCRIPTION}"):
            finetune = msgspec.json.decode(path.read_bytes(), type=Finetune)
            if finetune.id == path.parent.name:  # a copied folder is not the same finetune twice
                found.append(finetune)
        found.sort(key=lambda one: (one.created_at, one.id))
        self._known = {one.id: one for one in found}
        return self._known

    def _delete_abandoned(self) -> None:
        for staging in self._folder.glob("*/staging-*"):
            with suppress(FileNotFoundError):  # that upload has just ended
                if staging.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                    shutil.rmtree(staging, ignore_errors=True)

    def _write(self, finetune: Finetune) -> None:
        path = self._folder / finetune.id / DESCRIPTION
        draft = path.with_suffix(".part")
        draft.unlink(missing_ok=True)
        with _create(draft) as target:
            target.write(msgspec.json.encode(finetune))
            target.flush()
            os.fsync(target.fileno())
        draft.replace(path)

    @contextmanager
    def _staging(self, finetune: Finetune) -> Iterator[Path]:
        staging = self._folder / finetune.id / f"staging-{uuid.uuid4().hex}"
        try:
            staging.mkdir(mode=0o700)
        except FileNotFoundError:
            raise UnknownFinetune(finetune.id) from None
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _find(known: dict[str, Finetune], id_or_name: str) -> Finetune | None:
    return known.get(id_or_name) or next((one for one in known.values() if one.name == id_or_name), None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
