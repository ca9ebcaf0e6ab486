"""Keep the keys and values of pinned prefixes on disk, so that a restart does not compute them again.

Knows: arrays of keys and values, file formats, what a saved prefix depends on.
Never knows: the scheduler, requests, text.

A file is an uncompressed .npz without pickled objects. Its zip checksums are verified on reading; it is written beside
its place and then moved there, so a reader sees a whole file or none. Anything wrong with a file means "not saved".
"""

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.sequence import IntArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SavedPrefix:
    """Host copies of a prefix's blocks, in the order of its tokens."""

    keys: NDArray[Any]  # [layers, blocks, kv_heads, block_size, head_dim]
    values: NDArray[Any]  # the same


def prefix_key(fingerprint: str, kernels: str, tokens: IntArray, block_size: int) -> str:
    """Names everything that the bits of a prefix's keys and values depend on."""
    digest = hashlib.sha256()
    for part in (fingerprint, kernels, str(block_size)):
        digest.update(part.encode() + b"\0")
    digest.update(tokens.tobytes())
    return digest.hexdigest()


def save_prefix(path: Path, key: str, prefix: SavedPrefix) -> None:
    """Write a prefix so that `load_prefix` with the same key finds it. A full disk is logged: this is only a cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                np.savez(file, key=np.array(key), keys=prefix.keys, values=prefix.values)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        logger.warning("could not save a pinned prefix to %s: %s", path, error)


def load_prefix(path: Path, key: str, shape: tuple[int, ...]) -> SavedPrefix | None:
    """The prefix saved under this key with arrays of this shape; None if there is none or the file is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["key"]) != key:
                return None
            prefix = SavedPrefix(arrays["keys"], arrays["values"])
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and numpy raise a dozen kinds on damaged bytes; each means the same to us
        logger.warning("the pinned prefix in %s is damaged and will be computed again: %r", path, error)
        return None
    is_sound = all(part.shape == shape and part.dtype.kind == "f" for part in (prefix.keys, prefix.values))
    return prefix if is_sound else None
