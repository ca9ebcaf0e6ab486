"""Find a folder's safetensors files, check their headers, and read single tensors. Never pickle.

Knows: where each tensor's bytes lie, and in which number format.
Never knows: which tensors a model needs.
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from guardhouse.errors import CheckpointError
from guardhouse.model.llama_config import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "I32": "<i4"}  # bfloat16 is read as the upper half of a float32
SHARD_NAME = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)  # no separator, no leading dot
SAMPLE_BYTES = 64 * 1024
NUM_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    path: Path
    dtype: str  # safetensors' name: F16, BF16, I32 ..
    shape: tuple[int, ...]
    offset: int  # bytes from the beginning of the file
    num_bytes: int


def find_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the folder's weight files, by name. Headers are validated, data is not touched."""
    if (folder / SINGLE_FILE).exists():
        return read_header(folder / SINGLE_FILE)
    if not (folder / INDEX_FILE).exists():
        raise CheckpointError(_describe_missing_weights(folder))
    shard_of = _read_index(folder / INDEX_FILE)
    headers = {shard: read_header(folder / shard) for shard in sorted(set(shard_of.values()))}
    for name, shard in shard_of.items():
        if name not in headers[shard]:
            raise CheckpointError(f"{name}: not in {shard}, although {INDEX_FILE} says so")
    return {name: headers[shard][name] for name, shard in shard_of.items()}


def read_tensor(entry: TensorEntry) -> NDArray[Any]:
    """A copy in memory; bfloat16 becomes float32. The file is read, not mapped: nothing of it stays resident."""
    count = entry.num_bytes // np.dtype(DTYPES[entry.dtype]).itemsize
    values = np.fromfile(entry.path, DTYPES[entry.dtype], count, offset=entry.offset)
    if len(values) != count:
        raise CheckpointError(f"{entry.path.name}: became shorter while it was read")
    return _widen(values, entry)


def map_tensor(entry: TensorEntry) -> NDArray[Any]:
    """The tensor where it lies on disk, read-only, for what is used as it is; bfloat16 has to be copied to float32."""
    if entry.dtype == "BF16" or entry.num_bytes == 0:
        return read_tensor(entry)
    return np.memmap(entry.path, DTYPES[entry.dtype], "r", entry.offset, entry.shape).view(np.ndarray)


def fingerprint(config: bytes, tensors: Mapping[str, TensorEntry]) -> str:
    """A key for caches made from these weights: 32 hex digits.

    It covers the bytes of config.json and, for each weight file, its name, size, modification time (ns), header, and
    five pieces of 64 KiB spread over it. Reading 4 GB whole would take longer than what the caches save; a changed
    weight that keeps size, time and samples is not noticed.
    """
    digest = hashlib.sha256(config)
    for path in sorted({entry.path for entry in tensors.values()}):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            digest.update(file.read(header_size))
            for index in range(NUM_SAMPLES):
                file.seek(max(0, status.st_size - SAMPLE_BYTES) * index // (NUM_SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _widen(values: NDArray[Any], entry: TensorEntry) -> NDArray[Any]:
    if entry.dtype == "BF16":
        values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.reshape(entry.shape)


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard's file name. A shard lies in the folder itself: no path may lead elsewhere."""
    shard_of = read_json(path).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{path.name}: weight_map must be an object that names at least one tensor")
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise CheckpointError(f"{path.name}: {name}: {shard!r} is no file name of a safetensors shard")
    return shard_of


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Let safetensors itself validate the file (sizes, offsets, overlaps), then note where each tensor begins."""
    try:
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_size))
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: no such file in {path.parent}") from None
    except (OSError, SafetensorError, struct.error, ValueError) as error:
        raise CheckpointError(f"{path.name}: not a valid safetensors file: {error}") from error
    entries = {}
    for name, fields in header.items():
        if name != "__metadata__":
            begin, end = fields["data_offsets"]
            entries[name] = TensorEntry(
                path, fields["dtype"], tuple(fields["shape"]), 8 + header_size + begin, end - begin
            )
    return entries


def _describe_missing_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder"
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        return f"{folder}: holds {pickles[0]} but no {SINGLE_FILE}; pickled weights can run code and are never loaded"
    return f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there"
