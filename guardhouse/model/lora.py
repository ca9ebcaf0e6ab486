"""LoRA adapters in PEFT's format: checked, packed for a backend, and added to the rows of a batch that ask for them.

Knows: adapter_config.json, adapter_model.safetensors, the shapes of a Llama's linears.
Never knows: requests, where adapters are kept, the base weights.

An adapted linear is y = base(x) + scaling * up(down(x)), with down [rank, in] and up [out, rank] in float32. The scaling
is multiplied into `up` once. Linears that run fused have fused adapters: the downs on top of each other, the ups in
blocks along a diagonal, so that one pair of products serves all of them; what is not adapted has rows of zeros.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import AdapterError, CheckpointError
from guardhouse.model.layout import FLOATS, LinearSpec, fused_linears, layer_linears
from guardhouse.model.llama_config import LlamaConfig
from guardhouse.model.lora_config import CONFIG_FILE, LoraConfig, read_lora_config
from guardhouse.model.tensor_files import TensorEntry, read_header, read_tensor
from guardhouse.ops.table import Array, DenseWeight, Float32, Int32, Ops, PackedLinear

WEIGHTS_FILE = "adapter_model.safetensors"
TENSOR_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The adapter of one fused linear."""

    down: PackedLinear  # in -> rank, or the sum of the ranks of the parts
    up: PackedLinear  # rank -> out, scaled


@dataclass(frozen=True, eq=False, slots=True)
class Adapter:
    """An adapter ready to run on one backend, for one shape of model. Two of the same fingerprint compute the same."""

    fingerprint: str  # 64 hex digits, of both files
    layers: Sequence[Mapping[str, LoraPair]]  # per decoder layer, by the fused linear's name
    num_bytes: int  # in memory


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive rows of a batch with the same adapter."""

    start: int
    end: int
    adapter: Adapter


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """Reads adapters for one shape of model and one backend."""

    config: LlamaConfig
    ops: Ops

    def load(self, folder: Path) -> Adapter:
        """See `load_adapter`."""
        return load_adapter(folder, self.config, self.ops)

    def check(self, folder: Path) -> None:
        """Raise AdapterError where `load` would. Of an adapter that has one of its files only, check that one."""
        lora = read_lora_config(folder) if (folder / CONFIG_FILE).exists() else None
        if lora is None:
            _read_header(folder)
        elif (folder / WEIGHTS_FILE).exists():
            tensors = _find_tensors(folder, self.config, lora)
            for name in tensors:
                _values(tensors, name)


def load_adapter(folder: Path, config: LlamaConfig, ops: Ops) -> Adapter:
    """Read and pack an adapter. Raises AdapterError, naming file, field or tensor, for anything that is not as it should be.

    >>> adapter = load_adapter(Path("my-adapter"), llama.config, llama.ops)     # doctest: +SKIP
    """
    lora = read_lora_config(folder)
    tensors = _find_tensors(folder, config, lora)
    layers, num_bytes = [], 0
    for layer in range(config.num_layers):
        pairs = {}
        for name, parts in fused_linears(config, layer).items():
            if any(f"{part.name}.A" in tensors for part in parts):
                down, up = _fuse(parts, tensors, lora)
                pairs[name] = LoraPair(*(ops.place(ops.pack_dense(DenseWeight(part))) for part in (down, up)))
                num_bytes += down.nbytes + up.nbytes
        layers.append(pairs)
    return Adapter(_fingerprint(folder), layers, num_bytes)


def spans_of(adapters: Sequence[Adapter | None], query_starts: Int32, rows: Int32 | None = None) -> list[Span]:
    """Which rows need which adapter, sequences side by side with the same one together. `rows`: only these are computed."""
    of_row = np.repeat(np.arange(len(adapters)), np.diff(query_starts))  # [T]: the row's sequence
    if rows is not None:
        of_row = of_row[rows]
    spans: list[Span] = []
    for row, sequence in enumerate(of_row.tolist()):
        adapter = adapters[sequence]
        if adapter is None:
            continue
        if spans and spans[-1].end == row and spans[-1].adapter is adapter:
            spans[-1] = Span(spans[-1].start, row + 1, adapter)
        else:
            spans.append(Span(row, row + 1, adapter))
    return spans


def add_adapters_(y: Array, x: Array, spans: Sequence[Span], layer: int, name: str, ops: Ops) -> None:
    """y[rows] += up(down(x[rows])) for every span whose adapter has this linear. All other rows keep their bits."""
    for span in spans:
        pair = span.adapter.layers[layer].get(name)
        if pair is not None:
            rows = slice(span.start, span.end)
            ops.add_(y[rows], ops.linear(ops.linear(x[rows], pair.down), pair.up))


def _fuse(parts: Sequence[LinearSpec], tensors: Mapping[str, TensorEntry], lora: LoraConfig) -> tuple[Float32, Float32]:
    """(down [ranks, in], up [out, ranks]) of linears that run as one."""
    downs: list[Float32] = []
    blocks: list[tuple[int, Float32]] = []  # (first output, scaled up of the part)
    num_outputs = 0
    for part in parts:
        if f"{part.name}.A" in tensors:
            downs.append(_values(tensors, f"{part.name}.A"))
            blocks.append((num_outputs, _values(tensors, f"{part.name}.B") * np.float32(lora.scaling_of(part.name))))
        num_outputs += part.out_features
    up = np.zeros((num_outputs, sum(len(down) for down in downs)), np.float32)
    column = 0
    for first, block in blocks:
        up[first : first + len(block), column : column + block.shape[1]] = block
        column += block.shape[1]
    return np.concatenate(downs), up


def _values(tensors: Mapping[str, TensorEntry], name: str) -> Float32:
    entry = tensors[name]
    values: NDArray[np.float32] = _read(entry).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        module, side = name.rsplit(".", 1)
        raise AdapterError(f"{WEIGHTS_FILE}: {module}.lora_{side}.weight: holds NaN or infinite values")
    return values


def _read(entry: TensorEntry) -> NDArray[np.float32]:
    try:
        return read_tensor(entry)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error


def _find_tensors(folder: Path, config: LlamaConfig, lora: LoraConfig) -> dict[str, TensorEntry]:
    """Every tensor by `<module>.A` and `<module>.B`, checked: those that must be there, with their shapes, and no others."""
    linears = {linear.name: linear for layer in range(config.num_layers) for linear in layer_linears(config, layer)}
    tensors = {}
    for name, entry in _read_header(folder).items():
        found = TENSOR_NAME.fullmatch(name)
        if found is None or found["module"] not in linears:
            raise AdapterError(f"{WEIGHTS_FILE}: {name!r:.200} adapts nothing that this model has or that is supported")
        tensors[f"{found['module']}.{found['side']}"] = entry
        _check_shape(name, entry, linears[found["module"]], lora)
    if not tensors:
        raise AdapterError(f"{WEIGHTS_FILE}: holds no tensors")
    modules = lora.expected_modules(config)
    found_modules = {name.rsplit(".", 1)[0] for name in tensors}
    for module in sorted(found_modules if modules is None else modules | found_modules):
        for side in "AB":
            if f"{module}.{side}" not in tensors:
                raise AdapterError(f"{WEIGHTS_FILE}: base_model.model.{module}.lora_{side}.weight is missing")
        if modules is not None and module not in modules:
            raise AdapterError(f"{WEIGHTS_FILE}: {module} is adapted, but {CONFIG_FILE} does not say so")
    return tensors


def _check_shape(name: str, entry: TensorEntry, linear: LinearSpec, lora: LoraConfig) -> None:
    rank = lora.rank_of(linear.name)
    shape = (rank, linear.in_features) if ".lora_A." in name else (linear.out_features, rank)
    if entry.shape != shape or entry.dtype not in FLOATS:
        raise AdapterError(
            f"{WEIGHTS_FILE}: {name}: expected {' or '.join(FLOATS)} {list(shape)}, found {entry.dtype} {list(entry.shape)}"
        )


def _read_header(folder: Path) -> Mapping[str, TensorEntry]:
    try:
        return read_header(folder / WEIGHTS_FILE)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
