"""Packed weights on disk: pack a checkpoint once for a backend, map the result into memory ever after.

Knows: files, PackedLinear values, and that a cache may be missing, old, damaged or unwritable.
Never knows: what the weights are, how they are packed.

    <cache_dir>/<fingerprint>-<backend>-<version>/
        manifest.json               every packed linear and its arrays: file, shape, format, size in bytes
        0007.qkv.codes.npy          group 7, linear "qkv", array "codes"

A cache is written into a folder of its own and renamed when it is whole, manifest last: a half-written one is never
seen. What can be checked without reading gigabytes (names, sizes, formats) is checked on opening; whatever fails is
packed again.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.ops.table import PackedLinear

FORMAT = 1  # raised when the manifest, or the linears that a model asks for, change
MANIFEST = "manifest.json"
ABANDONED_AFTER_S = 3600.0  # a partial folder that nobody has written to for so long has lost its writer

Group = dict[str, PackedLinear]  # what is packed in one go: a decoder layer's linears by name
Packer = Callable[[], Group]
Progress = Callable[[int, int], None]  # groups done, groups in all


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Which weights, packed by whom."""

    fingerprint: str
    backend: str
    version: str

    @property
    def folder_name(self) -> str:
        return f"{self.fingerprint}-{self.backend}-{self.version}"

    @property
    def family(self) -> str:
        """Beginning of the folder names of every version of this cache."""
        return f"{self.fingerprint}-{self.backend}-"


def load_or_pack(
    packers: Sequence[Packer], cache_dir: Path | None, key: CacheKey, progress: Progress | None = None
) -> list[Group]:
    """The packed groups: mapped from the cache if it is whole, else packed (one at a time) and cached.

    Without `cache_dir`, or where it cannot be written (a warning says so), they are packed in memory.
    """
    report = progress if progress is not None else _ignore_progress
    if cache_dir is None:
        return _pack_in_memory(packers, report)
    folder = cache_dir / key.folder_name
    groups = open_cache(folder, len(packers))
    if groups is not None:
        report(len(packers), len(packers))
        return groups
    try:
        _write_cache(packers, folder, report)
    except OSError as error:
        message = f"cannot cache packed weights in {cache_dir} ({error}); packing them in memory, as at every start"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return _pack_in_memory(packers, report)
    _delete_old(folder, key.family)
    groups = open_cache(folder, len(packers))
    assert groups is not None, "a cache that was just written cannot be read"
    return groups


def open_cache(folder: Path, num_groups: int) -> list[Group] | None:
    """Map a cache's arrays; None if it is missing, or damaged in any way that shows without reading all of it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT or len(manifest["groups"]) != num_groups:
            return None
        return [{name: _open_linear(folder, fields) for name, fields in group.items()} for group in manifest["groups"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent or damaged: it is packed again
        return None


def _ignore_progress(_done: int, _total: int) -> None:
    pass


def _pack_in_memory(packers: Sequence[Packer], report: Progress) -> list[Group]:
    groups = []
    for done, pack in enumerate(packers, start=1):
        groups.append(pack())
        report(done, len(packers))
    return groups


def _write_cache(packers: Sequence[Packer], folder: Path, report: Progress) -> None:
    """Pack and write group by group, so that no more than one is in memory; then move the whole into place."""
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}-{time.monotonic_ns()}")
    partial.mkdir(parents=True)
    try:
        groups: list[dict[str, Any]] = []
        for done, pack in enumerate(packers, start=1):
            groups.append(_write_group(partial, done - 1, pack()))
            report(done, len(packers))
        with (partial / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "groups": groups}, file)
            _flush_to_disk(file.fileno())
        _move_into_place(partial, folder, len(packers))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into_place(partial: Path, folder: Path, num_groups: int) -> None:
    """Another process may have finished the same cache meanwhile: then its copy is as good as ours and stays."""
    if open_cache(folder, num_groups) is not None:
        return
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of another format
    try:
        partial.rename(folder)
    except OSError:
        if open_cache(folder, num_groups) is None:
            raise


def _write_group(folder: Path, index: int, group: Group) -> dict[str, Any]:
    return {
        name: {
            "kind": linear.kind,
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "group_size": linear.group_size,
            "arrays": {
                part: _write_array(folder / f"{index:04d}.{name}.{part}.npy", array)
                for part, array in linear.arrays.items()
            },
        }
        for name, linear in group.items()
    }


def _write_array(path: Path, array: NDArray[Any]) -> dict[str, Any]:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        _flush_to_disk(file.fileno())
    return {"file": path.name, "dtype": array.dtype.str, "shape": list(array.shape), "bytes": path.stat().st_size}


def _flush_to_disk(descriptor: int) -> None:
    """So that after a power cut no manifest speaks of data that never arrived."""
    os.fsync(descriptor)


def _open_linear(folder: Path, fields: dict[str, Any]) -> PackedLinear:
    return PackedLinear(
        kind=fields["kind"],
        in_features=fields["in_features"],
        out_features=fields["out_features"],
        group_size=fields["group_size"],
        arrays={part: _open_array(folder, array) for part, array in fields["arrays"].items()},
    )


def _open_array(folder: Path, fields: dict[str, Any]) -> NDArray[Any]:
    path = folder / Path(fields["file"]).name
    if path.stat().st_size != fields["bytes"]:
        raise ValueError(f"{path.name}: unexpected size")
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    if array.dtype.str != fields["dtype"] or list(array.shape) != fields["shape"]:
        raise ValueError(f"{path.name}: unexpected format")
    return array


def _delete_old(current: Path, family: str) -> None:
    """Drop this cache's other versions, and partial folders whose writer is gone. Failing to is no harm."""
    for folder in current.parent.glob(f"{family}*"):
        if folder == current:
            continue
        is_partial = ".partial-" in folder.name
        if is_partial and time.time() - folder.stat().st_mtime < ABANDONED_AFTER_S:
            continue
        shutil.rmtree(folder, ignore_errors=True)
