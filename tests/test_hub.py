"""Pulling a checkpoint, with the real hub client against a hub on loopback."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_hub import HubServer, loopback_hub

from guardhouse.config import Settings
from guardhouse.errors import UnknownModel
from guardhouse.hub import find_model, installed_models

REPO = "someone/Guard-AWQ"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights " * 1000,
    "README.md": b"hello",
    "pytorch_model.bin": b"a pickle",
    "modeling_guard.py": b"import os",
}
SCRIPT = """
import sys
from pathlib import Path
from guardhouse.config import Settings
from guardhouse.errors import GuardhouseError
from guardhouse.hub import pull
try:
    print(pull(sys.argv[1], Settings(cache_dir=Path(sys.argv[2])), print))
except GuardhouseError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def run_pull(hub: HubServer, cache: Path, name: str = REPO, **variables: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own: the client reads HF_ENDPOINT when it is imported."""
    with start_pull(hub, cache, name, **variables) as process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start_pull(hub: HubServer, cache: Path, name: str = REPO, **variables: str) -> "subprocess.Popen[str]":
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache / "hf"), "PATH": "/usr/bin:/bin", **variables}
    command = [sys.executable, "-c", SCRIPT, name, str(cache)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_checkpoint_is_pulled_without_anything_that_could_hold_code(tmp_path: Path) -> None:
    with loopback_hub(REPO, FILES) as hub:
        done = run_pull(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / REPO
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors", "README.md"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    settings = Settings(model=REPO, cache_dir=tmp_path)
    assert [(model.name, model.path) for model in installed_models(settings)] == [(REPO, folder)]
    assert find_model(settings) == folder


def test_a_second_pull_fetches_no_file_again(tmp_path: Path) -> None:
    with loopback_hub(REPO, FILES) as hub:
        run_pull(hub, tmp_path)
        hub.asked.clear()
        assert run_pull(hub, tmp_path).returncode == 0
        assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path) -> None:
    weights = bytes(range(256)) * (96 << 10)  # 24 MiB: the client writes pieces of 10 MB
    with loopback_hub(REPO, {**FILES, "model.safetensors": weights}) as hub:
        hub.stall_after = 22 << 20
        with start_pull(hub, tmp_path) as process:
            assert hub.has_stalled.wait(60)
            wait_until(lambda: any(file.stat().st_size for file in (tmp_path / "models" / REPO).glob("*.part")))
            process.kill()
        assert not (tmp_path / "models" / REPO / "model.safetensors").exists()
        hub.stall_after = len(weights) + 1
        hub.may_go_on.set()
        hub.starts.clear()
        done = run_pull(hub, tmp_path)
        assert done.returncode == 0, done.stderr
        assert [start > 0 for name, start in hub.starts if name == "model.safetensors"] == [True]
    assert (tmp_path / "models" / REPO / "model.safetensors").read_bytes() == weights


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_a_corrupted_file_is_refused_and_removed(tmp_path: Path) -> None:
    corrupted = {"model.safetensors": FILES["model.safetensors"].replace(b"w", b"W", 1)}
    with loopback_hub(REPO, FILES, corrupted) as hub:
        done = run_pull(hub, tmp_path)
        assert done.returncode == 1
        assert "model.safetensors is corrupted" in done.stderr
        assert not (tmp_path / "models" / REPO / "model.safetensors").exists()
        hub.served = {}
        assert run_pull(hub, tmp_path).returncode == 0, "the next pull repairs it"


def test_a_repository_without_safetensors_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    files = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    with loopback_hub(REPO, files) as hub:
        done = run_pull(hub, tmp_path)
        assert "holds no safetensors" in done.stderr
        assert not [line for line in hub.asked if "/resolve/" in line]


@pytest.mark.parametrize("name", ["no-owner", "../etc", "a/../b", "/abs/olute", "a/b/c", "a/.hidden"])
def test_what_is_no_hub_name_is_refused(tmp_path: Path, name: str) -> None:
    with loopback_hub(REPO, FILES) as hub:
        assert "ConfigError: not a hub name" in run_pull(hub, tmp_path, name).stderr
        assert hub.asked == []


def test_an_unknown_repository_is_told_in_one_line(tmp_path: Path) -> None:
    with loopback_hub(REPO, FILES) as hub:
        done = run_pull(hub, tmp_path, "someone/else")
    assert done.stderr.startswith("CheckpointError: cannot pull someone/else: ")
    assert done.stderr.count("\n") == 1


def test_offline_mode_is_honoured(tmp_path: Path) -> None:
    with loopback_hub(REPO, FILES) as hub:
        assert "HF_HUB_OFFLINE is set" in run_pull(hub, tmp_path, HF_HUB_OFFLINE="1").stderr
        assert hub.asked == []


def test_a_model_is_found_as_a_folder_or_not_at_all(tmp_path: Path) -> None:
    assert find_model(Settings(cache_dir=tmp_path)) == "embedded"
    assert find_model(Settings(model=str(tmp_path), cache_dir=tmp_path)) == tmp_path
    with pytest.raises(UnknownModel, match="nobody/nothing"):
        find_model(Settings(model="nobody/nothing", cache_dir=tmp_path))
