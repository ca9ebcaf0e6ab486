"""Look at this machine and say what is there, what is missing and how to fix it.

Knows: processor features, memory, disk, installed extras, the native library, the checkpoint's folder.
Never knows: how anything of that is used.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from guardhouse.config import Settings
from guardhouse.errors import BackendError, CheckpointError
from guardhouse.model.checkpoint import read_config
from guardhouse.ops import best_isa, describe_cuda, native_library_path

EXTRAS = {"torch": "cuda", "pyarrow": "bulk", "ray": "ray", "opentelemetry": "otel"}  # module -> extra
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
MIN_FREE_DISK = 1 << 30  # bytes; a 7B checkpoint and its packed weights want 8 GB


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `fix` says what to do; a "bad" finding keeps Guardhouse from working."""

    subject: str
    level: Literal["good", "note", "bad"]
    detail: str
    fix: str = ""


def examine(settings: Settings, model: Path | None) -> Iterator[Finding]:
    """Every finding, in the order in which they matter. `model`: the checkpoint's folder, None if it was not found."""
    yield _model(settings, model)
    yield _native_library()
    yield _processor()
    yield _gpu(settings)
    yield _threads(settings)
    yield _memory()
    yield _disk(settings.cache_dir)
    yield from _extras()


def _model(settings: Settings, folder: Path | None) -> Finding:
    if folder is None:
        return Finding("model", "bad", f"{settings.model} is not here", f"guardhouse pull {settings.model}")
    try:
        config = read_config(folder)
    except CheckpointError as error:
        return Finding("model", "bad", str(error), "pull it again, or name another folder with --model")
    kind = f"{config.num_layers} layers, hidden size {config.hidden_size}, window {config.max_positions}"
    return Finding("model", "good", f"{settings.model}: {kind} ({folder})")


def _native_library() -> Finding:
    path = native_library_path()
    if path is None:
        fix = "install with a C compiler and CMake present: pip install --force-reinstall guardhouse"
        return Finding("kernels", "note", "not compiled: numpy is used, many times slower", fix)
    return Finding("kernels", "good", str(path))


def _processor() -> Finding:
    machine = platform.machine()
    try:
        isa = best_isa()
    except BackendError:
        return Finding("processor", "note", machine)
    if isa == "portable":
        return Finding(
            "processor", "note", f"{machine} without AVX2 or ARM's dot products: the portable kernels are used"
        )
    return Finding("processor", "good", f"{machine}: {isa} kernels")


def _gpu(settings: Settings) -> Finding:
    """Device, driver, torch, and what of them is missing. Bad only where the settings ask for it."""
    missing: Literal["note", "bad"] = "bad" if settings.device == "cuda" else "note"
    if not NVIDIA_DRIVER.exists():
        return Finding("gpu", missing, "no NVIDIA driver is loaded: the processor computes", "--device cpu")
    words = NVIDIA_DRIVER.read_text(encoding="utf-8").split()
    version = next((word for word in words if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)), "unknown")
    try:
        return Finding("gpu", "good", f"{describe_cuda()}, driver {version}")
    except BackendError as error:
        what, _, fix = str(error).partition(": ")
        return Finding("gpu", missing, f"driver {version}, but {what}", fix)


def _threads(settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if settings.threads is not None and settings.threads > cores:
        return Finding("threads", "note", f"{settings.threads} threads on {cores} cores", f"--threads {cores}")
    return Finding("threads", "good", f"{settings.threads or cores} of {cores} cores")


def _memory() -> Finding:
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    return Finding("memory", "good", f"{page * pages / 1e9:.1f} GB (a 7B AWQ checkpoint needs about 5)")


def _disk(cache_dir: Path) -> Finding:
    existing = next(folder for folder in (cache_dir, *cache_dir.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return Finding("cache", "note", f"{cache_dir} cannot be written", "name another with --cache-dir")
    if free < MIN_FREE_DISK:
        return Finding("cache", "note", f"{cache_dir} has {free / 1e9:.1f} GB left", "make room or use --cache-dir")
    return Finding("cache", "good", f"{cache_dir}, {free / 1e9:.1f} GB free")


def _extras() -> Iterator[Finding]:
    for module, extra in EXTRAS.items():
        if find_spec(module):
            yield Finding(f"[{extra}]", "good", f"{module} is installed")
        else:
            yield Finding(f"[{extra}]", "note", f"{module} is not installed", f"pip install 'guardhouse[{extra}]'")
