"""Checkpoints on this machine, and how they get here.

Knows: the models folder, and the Hugging Face hub through its own client (honours HF_HOME, HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE).
Never knows: what is in a checkpoint beyond file names, sizes and digests.

Nothing that could hold code is fetched: safetensors, tokenizer files, JSON and templates; never pickles or scripts.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardhouse.config import Settings, models_dir
from guardhouse.errors import CheckpointError, ConfigError, UnknownModel

ALLOWED = ("*.json", "*.safetensors", "tokenizer.model", "*.txt", "*.md", "*.jinja")
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A checkpoint folder under the models folder."""

    name: str
    path: Path
    num_bytes: int


def find_model(settings: Settings) -> str | Path:
    """`embedded`, or the folder that `settings.model` means: a path first, else a pulled name."""
    if settings.model == "embedded":
        return "embedded"
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        return folder
    if _is_repo_id(settings.model) and (pulled := models_dir(settings) / settings.model).is_dir():
        return pulled
    raise UnknownModel(f"{settings.model} (no such folder, and nothing of that name was pulled)")


def installed_models(settings: Settings) -> Iterator[InstalledModel]:
    """Every pulled checkpoint, by name."""
    root = models_dir(settings)
    for config in sorted(root.glob("*/*/config.json")):
        folder = config.parent
        num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        yield InstalledModel(folder.relative_to(root).as_posix(), folder, num_bytes)


def pull(name: str, settings: Settings, report: Callable[[str], None], revision: str | None = None) -> Path:
    """Fetch a checkpoint into the models folder, or finish an interrupted fetch; large files' SHA-256 are checked."""
    if not _is_repo_id(name):
        raise ConfigError(f"not a hub name (owner/name): {name}")
    folder = models_dir(settings) / name
    info = _repository(name, revision)
    files = [file for file in info.siblings if _is_allowed(file.rfilename)]
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise CheckpointError(f"{name} holds no safetensors; other formats may run code and are not fetched")
    total = sum(file.size or 0 for file in files)
    report(f"{name} at {info.sha[:12]}: {len(files)} files, {total / 1e6:,.1f} MB -> {folder}")
    _download_small(name, info.sha, folder, [file.rfilename for file in files if not file.lfs])
    for file in files:
        path = folder / file.rfilename
        if file.lfs and not (path.is_file() and _is_intact(path, file)):
            _download_large(name, info.sha, path, file)
        _verify(path, file)
        report(f"  {file.rfilename}  {'sha256 ok' if file.lfs else 'ok'}")
    return folder


def _repository(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi  # noqa: PLC0415  # heavy, and needed by `pull` only

    with _HubErrors(name):
        return HfApi().model_info(name, revision=revision, files_metadata=True)


def _download_small(name: str, commit: str, folder: Path, files: list[str]) -> None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    with _HubErrors(name):
        snapshot_download(name, revision=commit, local_dir=folder, allow_patterns=files)


def _download_large(name: str, commit: str, path: Path, file: Any) -> None:
    """Into `<path>.<digest>.part`, which a pull that is killed leaves behind and the next one goes on with.

    The client's own downloads into a folder begin anew since its version 2: gigabytes are too much for that.
    """
    from huggingface_hub import hf_hub_url  # noqa: PLC0415
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils._headers import build_hf_headers  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{str(file.lfs.sha256)[:16]}.part")
    partial.touch()
    with _HubErrors(name), partial.open("r+b") as stream:
        http_get(
            hf_hub_url(name, file.rfilename, revision=commit),
            stream,
            resume_size=stream.seek(0, os.SEEK_END),
            expected_size=file.size,
            headers=build_hf_headers(),
            displayed_filename=path.name,
        )
    partial.replace(path)


class _HubErrors:
    """Turns whatever the hub's client raises into one line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled  # noqa: PLC0415

        if isinstance(error, OfflineModeIsEnabled):
            raise CheckpointError(f"cannot pull {self._name}: HF_HUB_OFFLINE is set") from error
        if isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError | ValueError):
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"cannot pull {self._name}: {reason}") from error


def _verify(path: Path, file: Any) -> None:
    """Compare with what the hub says; a file that differs is deleted, so that the next pull fetches it again."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing after the download")
    if not _is_intact(path, file):
        path.unlink()
        raise CheckpointError(f"{path.name} is corrupted: it differs from what the hub announced; deleted, pull again")


def _is_intact(path: Path, file: Any) -> bool:
    if file.lfs:
        return _sha256(path) == str(file.lfs.sha256)
    return file.size is None or path.stat().st_size == int(file.size)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_allowed(name: str) -> bool:
    return any(Path(name).match(pattern) for pattern in ALLOWED)


def _is_repo_id(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(slash) and all(
        part and not part.startswith(".") and all(c.isalnum() or c in "-_." for c in part) for part in (owner, rest)
    )
