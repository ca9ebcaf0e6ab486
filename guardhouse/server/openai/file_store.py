"""Files that callers upload for batches: kept on disk until they are deleted or expire.

Knows: a folder, files' names and times.
Never knows: HTTP, what is in a file.

    <folder>/file-<hex>        the content
    <folder>/file-<hex>.json   its description, written last: without it there is no file

They hold what people wrote, so that only the owner of the process can read them, and they are deleted once they expire.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from guardhouse.errors import QueueFull

RETRY_AFTER_S = 60  # told to a caller whose file does not fit any more
FILE_ID = re.compile(r"file-[0-9a-f]{32}")


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file's description. Times are seconds since 1970."""

    id: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: float
    expires_at: float


class FileStore:
    """Every method may wait for the disk, so none belongs on an event loop. Safe beside other processes."""

    def __init__(
        self, folder: Path, retention_s: float, max_bytes: int = 1 << 30, clock: Callable[[], float] = time.time
    ) -> None:
        """The folder is made with the first file. `max_bytes`: of all files together."""
        self._folder = folder
        self._retention_s = retention_s
        self._max_bytes = max_bytes
        self._clock = clock

    def add(self, source: BinaryIO, filename: str, purpose: str, lifetime_s: float | None = None) -> StoredFile:
        """Store the whole of `source`. Once this returns, the file survives a restart. Raises QueueFull without room."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.tidy()
        num_new = source.seek(0, os.SEEK_END)
        if sum(one.num_bytes for one in self.all()) + num_new > self._max_bytes:
            raise QueueFull(RETRY_AFTER_S)
        source.seek(0)
        now = self._clock()
        file_id = f"file-{uuid.uuid4().hex}"
        with self._create(file_id) as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
            num_bytes = target.tell()
        stored = StoredFile(
            id=file_id,
            filename=filename,
            purpose=purpose,
            num_bytes=num_bytes,
            created_at=now,
            expires_at=now + (lifetime_s or self._retention_s),
        )
        with self._create(f"{file_id}.part") as target:
            target.write(msgspec.json.encode(stored))
            target.flush()
            os.fsync(target.fileno())
        (self._folder / f"{file_id}.part").replace(self._folder / f"{file_id}.json")
        return stored

    def find(self, file_id: str) -> StoredFile | None:
        """None: there is none of that id, or it has expired."""
        if not FILE_ID.fullmatch(file_id):  # a caller's word must not become a path
            return None
        try:
            stored = msgspec.json.decode((self._folder / f"{file_id}.json").read_bytes(), type=StoredFile)
        except FileNotFoundError:
            return None
        return stored if stored.expires_at > self._clock() else None

    def open(self, file_id: str) -> BinaryIO:
        """The content of a file that `find` has found. Raises FileNotFoundError if it was deleted meanwhile."""
        return (self._folder / file_id).open("rb")

    def all(self) -> list[StoredFile]:
        """Newest first."""
        found = [self.find(path.stem) for path in self._descriptions()]
        return sorted((one for one in found if one), key=lambda one: (one.created_at, one.id), reverse=True)

    def delete(self, file_id: str) -> bool:
        """False: there is none of that id."""
        if self.find(file_id) is None:
            return False
        self._remove(file_id)
        return True

    def tidy(self) -> None:
        """Delete what has expired, and what an upload left that never ended."""
        now = self._clock()
        for path in self._descriptions():
            if self.find(path.stem) is None:
                self._remove(path.stem)
        for path in self._folder.glob("file-*"):
            is_orphan = not path.suffix and not path.with_suffix(".json").exists()
            if is_orphan and path.stat().st_mtime < now - self._retention_s:
                path.unlink(missing_ok=True)

    def _descriptions(self) -> Iterator[Path]:
        return iter(list(self._folder.glob("file-*.json")))

    def _remove(self, file_id: str) -> None:
        for name in (f"{file_id}.json", file_id):
            (self._folder / name).unlink(missing_ok=True)

    def _create(self, name: str) -> BinaryIO:
        return os.fdopen(os.open(self._folder / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb")
