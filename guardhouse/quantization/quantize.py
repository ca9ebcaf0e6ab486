"""A dense Llama folder to an AWQ folder: layer by layer, in memory for one layer, going on where it was interrupted.

Knows: the order of work, what an unfinished run left behind, progress.
Never knows: how a search works, terminals.

    DST/.quantize/job.json              what this run is of: source, texts, options; another run's remains are refused
    DST/.quantize/layer-00007.safetensors   finished layers
    DST/.quantize/hidden-00008.npy      what layer 8 will read, [tokens, hidden]
    DST/                                 the folder itself, written when all layers are done; then .quantize goes

In numpy, not torch: the work is products of large matrices, where both call the same kind of BLAS, and a search made of
small pieces that stay in a core's cache. So it needs no extra, and runs wherever Guardhouse does.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from guardhouse.errors import CheckpointError, InputError
from guardhouse.model.awq import COLUMNS_PER_WORD
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.layout import EMBEDDING, FINAL_NORM, HEAD, layer_linears
from guardhouse.model.llama import Llama, load_without_layers
from guardhouse.model.llama_config import read_json
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops.table import Float32
from guardhouse.quantization.activations import CalibrationGroup, RecordingOps, embed_tokens, few_texts, run_layer
from guardhouse.quantization.calibration import BUILT_IN, digest, encode_texts, read_texts
from guardhouse.quantization.folder import copy_other_files, write_configs, write_safetensors, write_weights
from guardhouse.quantization.layers import Plan, build_layer, layer_tensors, load_parts, to_float16
from guardhouse.quantization.planning import NUM_JUDGED_TEXTS, LayerJudge, LayerPlan, plan_layer
from guardhouse.quantization.search import Searcher
from guardhouse.quantization.workers import start_workers

WORK_FOLDER = ".quantize"
MAX_TOKENS = 512  # of one calibration text

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantise."""

    group_size: int = 128  # inputs that share a scale and a zero
    method: Literal["awq", "rtn"] = "awq"  # rtn: round to nearest, no calibration
    calibration: Path | None = None  # None: the built-in texts
    num_texts: int = 128
    grid: int = 20  # steps of the scale search
    max_shard_bytes: int = 5_000_000_000
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was written."""

    folder: Path
    num_bytes: int  # of the weights
    num_tokens: int  # of calibration
    errors: Sequence[tuple[float, float]]  # per layer: its relative output error, and rounding's; () for rtn


def quantize(
    source: Path, target: Path, options: QuantizeOptions | None = None, progress: Progress | None = None
) -> QuantizeResult:
    """Quantise the dense checkpoint in `source` into the folder `target`.

    Killed and run again with the same arguments it goes on with the layer it was at. `progress` gets (layers done, layers).
    Raises CheckpointError where the source cannot be AWQ, InputError where the target or the texts are in the way.
    """
    options = options or QuantizeOptions()
    checkpoint = Checkpoint.open(source)
    check_source(checkpoint, options.group_size)
    texts = read_texts(options.calibration or BUILT_IN, options.num_texts) if options.method == "awq" else []
    work = _open_work(target, _describe_job(checkpoint, texts, options))
    if options.method == "awq":
        groups = encode_texts(Tokenizer.load(source), texts, MAX_TOKENS)
        _quantize_layers(checkpoint, groups, work, options, progress)
    else:
        groups = []
        _round_layers(checkpoint, work, options.group_size, progress)
    return _finish(checkpoint, source, target, options, sum(group.num_tokens for group in groups))


def check_source(checkpoint: Checkpoint, group_size: int) -> None:
    """Every linear can be cut into groups and words. Raises CheckpointError."""
    if checkpoint.config.quantization is not None:
        raise CheckpointError("the checkpoint is quantised already; quantise the dense one it was made from")
    for linear in layer_linears(checkpoint.config, 0):
        if group_size < 1 or linear.in_features % group_size:
            fitting = [size for size in (128, 64, 32, 16) if _fits(checkpoint, size)]
            hint = f"; {', '.join(map(str, fitting))} would do" if fitting else ""
            raise CheckpointError(f"{linear.name}: {linear.in_features} inputs are no multiple of {group_size}{hint}")
        if linear.out_features % COLUMNS_PER_WORD:
            raise CheckpointError(f"{linear.name}: {linear.out_features} outputs are no multiple of {COLUMNS_PER_WORD}")


def _fits(checkpoint: Checkpoint, group_size: int) -> bool:
    return all(linear.in_features % group_size == 0 for linear in layer_linears(checkpoint.config, 0))


def _describe_job(checkpoint: Checkpoint, texts: Sequence[Any], options: QuantizeOptions) -> dict[str, object]:
    """Whatever changes a layer's result."""
    kept = {name: value for name, value in asdict(options).items() if name in {"group_size", "method", "grid"}}
    return {"source": checkpoint.fingerprint, "texts": digest(texts), **kept}


def _open_work(target: Path, job: dict[str, object]) -> Path:
    """The work folder, new or that of an interrupted run of the same job."""
    work = target / WORK_FOLDER
    if (work / "job.json").exists():
        if read_json(work / "job.json") != job:
            raise InputError(f"{target}: holds an unfinished run with another source or other options; delete {work}")
        return work
    if target.exists() and (not target.is_dir() or any(path.name != WORK_FOLDER for path in target.iterdir())):
        raise InputError(f"{target}: is not an empty folder")
    work.mkdir(parents=True, exist_ok=True)
    _replace(work / "job.json", lambda path: path.write_text(json.dumps(job), encoding="utf-8"))
    return work


def _quantize_layers(
    checkpoint: Checkpoint,
    groups: Sequence[CalibrationGroup],
    work: Path,
    options: QuantizeOptions,
    progress: Progress | None,
) -> None:
    num_layers = checkpoint.config.num_layers
    longest = max(len(group.prefix) + max(map(len, group.endings)) for group in groups)
    model = load_without_layers(checkpoint, RecordingOps(), longest)
    judged, rows = few_texts(groups, NUM_JUDGED_TEXTS)
    first, hidden = _resume(work, num_layers, model, groups)
    with start_workers(options.threads) as workers:
        searcher = Searcher(workers, options.group_size, options.grid)
        for index in range(first, num_layers):
            if progress:
                progress(index, num_layers)
            parts = load_parts(checkpoint, index)
            before = hidden[rows]
            statistics = run_layer(model, build_layer(parts, model.ops), hidden, groups, options.group_size, workers)
            found = plan_layer(parts, statistics, searcher, LayerJudge(model, judged, before, hidden[rows], workers))
            tensors = layer_tensors(checkpoint, index, parts, found.plan, options.group_size)
            _save_layer(work, index, tensors, found, hidden)
    if progress:
        progress(num_layers, num_layers)


def _resume(work: Path, num_layers: int, model: Llama, groups: Sequence[CalibrationGroup]) -> tuple[int, Float32]:
    """The first layer to do and what it reads."""
    for index in range(num_layers, 0, -1):
        if _hidden_file(work, index).exists() and all(_layer_file(work, done).exists() for done in range(index)):
            return index, np.load(_hidden_file(work, index), allow_pickle=False)
    return 0, embed_tokens(model, groups)


def _save_layer(work: Path, index: int, tensors: dict[str, Any], found: LayerPlan, hidden: Float32) -> None:
    """In this order: a kill in between costs one layer's work, never its truth."""
    write_safetensors(_layer_file(work, index), tensors)
    errors = json.dumps([found.error, found.plain_error])
    _replace(_errors_file(work, index), lambda path: path.write_text(errors, encoding="utf-8"))
    _replace(_hidden_file(work, index + 1), lambda path: _save_array(path, hidden))
    _hidden_file(work, index).unlink(missing_ok=True)


def _round_layers(checkpoint: Checkpoint, work: Path, group_size: int, progress: Progress | None) -> None:
    num_layers = checkpoint.config.num_layers
    for index in range(num_layers):
        if progress:
            progress(index, num_layers)
        if not _layer_file(work, index).exists():
            tensors = layer_tensors(checkpoint, index, load_parts(checkpoint, index), Plan(), group_size)
            write_safetensors(_layer_file(work, index), tensors)
    if progress:
        progress(num_layers, num_layers)


def _finish(
    checkpoint: Checkpoint, source: Path, target: Path, options: QuantizeOptions, num_tokens: int
) -> QuantizeResult:
    """Join the layers, write the rest, remove the work folder last."""
    work = target / WORK_FOLDER
    layers = range(checkpoint.config.num_layers)
    write_safetensors(work / "vocabulary.safetensors", _vocabulary(checkpoint))
    parts = [work / "vocabulary.safetensors", *(_layer_file(work, index) for index in layers)]
    copy_other_files(source, target)
    write_configs(source, target, options.group_size)
    files = write_weights(parts, target, options.max_shard_bytes)
    errors = [tuple(json.loads(_errors_file(work, index).read_text())) for index in layers if options.method == "awq"]
    shutil.rmtree(work)
    return QuantizeResult(target, sum(file.stat().st_size for file in files), num_tokens, errors)


def _vocabulary(checkpoint: Checkpoint) -> dict[str, Any]:
    """What stays in float16: the embedding table, the last norm, the LM head."""
    names = [f"{EMBEDDING}.weight", f"{FINAL_NORM}.weight"]
    names += [] if checkpoint.config.tie_word_embeddings else [f"{HEAD}.weight"]
    return {name: to_float16(checkpoint.tensor(name), name) for name in names}


def _layer_file(work: Path, index: int) -> Path:
    return work / f"layer-{index:05d}.safetensors"


def _errors_file(work: Path, index: int) -> Path:
    return work / f"layer-{index:05d}.json"


def _hidden_file(work: Path, index: int) -> Path:
    return work / f"hidden-{index:05d}.npy"


def _save_array(path: Path, values: Float32) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Written whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    write(unfinished)
    unfinished.replace(path)
