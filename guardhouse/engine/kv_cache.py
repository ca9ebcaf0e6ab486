"""Keep the keys and values of pinned prefixes on disk, so that a restart does not compute them again.

Knows: layers of keys and values, file formats, what a saved prefix depends on.
Never knows: the scheduler, requests, text.

A file is an uncompressed .npz without pickled objects: `key`, then `keys.0`, `values.0`, `keys.1` and so on, one array per
layer. It is written and read layer by layer, because all of them are as large as the prefix in the cache itself (0.4 GiB
for Llama Guard 7B). Zip checksums are verified on reading; a file is written beside its place and then moved there, so a
reader sees a whole file or none. Anything wrong with a file means "not saved".
"""

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORMAT = "2"  # of the file; part of every key, so that files of another format are simply not found

Layer = tuple[NDArray[Any], NDArray[Any]]  # keys and values, [blocks, kv_heads, block_size, head_dim] each
PutLayer = Callable[[int, Layer], None]  # takes a layer's number and what was saved of it


def prefix_key(fingerprint: str, kernels: str, tokens: NDArray[np.int32], block_size: int) -> str:
    """Names everything that the bits of a prefix's keys and values depend on."""
    digest = hashlib.sha256()
    for part in (FORMAT, fingerprint, kernels, str(block_size)):
        digest.update(part.encode() + b"\0")
    digest.update(tokens.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class PrefixFile:
    """Where one prefix is kept, and the key of what must be in it."""

    path: Path
    key: str

    def save(self, layers: Iterable[Layer]) -> None:
        """Write a prefix so that `load` finds it. A full disk is logged: this is only a cache."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name, suffix=".part")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    _write(file, self.key, layers)
                os.replace(draft, self.path)
            except BaseException:
                os.unlink(draft)
                raise
        except OSError as error:
            logger.warning("could not save a pinned prefix to %s: %s", self.path, error)

    def load(self, shape: tuple[int, ...], put: PutLayer) -> bool:
        """Hand each layer of the saved prefix to `put`, whose arrays together have this shape: [layers, blocks, ..].

        False if there is none or the file is damaged; what was put until then is worthless.
        """
        num_layers, *layer_shape = shape
        try:
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                if str(arrays["key"]) != self.key:
                    return False
                for index in range(num_layers):
                    layer = arrays[f"keys.{index}"], arrays[f"values.{index}"]
                    if any(part.shape != tuple(layer_shape) or part.dtype.kind != "f" for part in layer):
                        return False
                    put(index, layer)
        except FileNotFoundError:
            return False
        except Exception as error:  # zipfile and numpy raise a dozen kinds on damaged bytes; each means the same to us
            logger.warning("the pinned prefix in %s cannot be used and is computed again: %r", self.path, error)
            return False
        return True


def _write(file: IO[bytes], key: str, layers: Iterable[Layer]) -> None:
    """What np.savez writes, without having all arrays at once."""
    with zipfile.ZipFile(file, "w") as archive:
        _write_array(archive, "key", np.array(key))
        for index, (keys, values) in enumerate(layers):
            _write_array(archive, f"keys.{index}", keys)
            _write_array(archive, f"values.{index}", values)


def _write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)
