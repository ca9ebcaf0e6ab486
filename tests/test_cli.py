"""The command line, as a process: what it prints, where, and its exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from served import RUN, wait_for, write_guard_checkpoint

from guardhouse.config import setting_specs


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "random-guard")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


COMMAND = [sys.executable, "-m", "guardhouse.cli"]


def guardhouse(cache: Path, *arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "GUARDHOUSE_CACHE_DIR": str(cache), "GUARDHOUSE_THREADS": "1", **variables}
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def assert_failed(done: "subprocess.CompletedProcess[str]", text: str) -> None:
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("guardhouse: ")
    assert text in done.stderr
    assert done.stderr.count("\n") == 1, "one line, no traceback"


@pytest.mark.parametrize(
    "arguments", [["check", "a cake"], ["a cake"], ["check", "a", "cake"], ["check"], ["check", "-"], []]
)
def test_a_text_is_judged_by_every_way_of_giving_it(checkpoint: Path, cache: Path, arguments: list[str]) -> None:
    options = ["--model", str(checkpoint), "--threshold", "1"]
    done = guardhouse(cache, *(arguments or ["check"]), *options, stdin="a cake")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"safe  score \d\.\d{3}\n", done.stdout), "no colour where no terminal is"


def test_the_exit_code_is_the_verdict_and_json_holds_all_of_it(checkpoint: Path, cache: Path) -> None:
    done = guardhouse(cache, "a cake", "--json", GUARDHOUSE_MODEL=str(checkpoint), GUARDHOUSE_THRESHOLD="1")
    verdict = json.loads(done.stdout)
    assert done.returncode == 0
    assert verdict["flagged"] is False
    assert verdict["threshold"] == 1
    assert verdict["model"] == "random-guard"


def test_an_unsafe_text_is_exit_code_1(checkpoint: Path, cache: Path) -> None:
    done = guardhouse(cache, "a cake", "--model", str(checkpoint), "--threshold", "0")
    assert (done.returncode, done.stderr) == (1, "")
    assert re.fullmatch(r"unsafe  O[1-3](,O[1-3])*  score \d\.\d{3}\n", done.stdout)


def test_conversations_come_from_a_file(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a cake"}, {"role": "assistant", "content": "make it"}]
    file = tmp_path / "turns.json"
    roles = []
    for payload in (turns, {"messages": turns}):
        file.write_text(json.dumps(payload))
        done = guardhouse(
            cache, "check", "--messages", str(file), "--json", "--model", str(checkpoint), "--threshold", "1"
        )
        roles.append(json.loads(done.stdout)["role"])
    assert roles == ["assistant", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check", "a", "--max-queue", "1"], "No such option"),
        (["check", "a", "--threshold", "2"], "--threshold: Expected `float` <= 1"),
        (["check", "a", "--model", "nobody/nothing"], "no such model: nobody/nothing"),
        (["check", "a", "--device", "gpu"], "--device: Invalid enum value 'gpu'"),
        (["check", ""], "empty"),
        (["check", "a", "--messages", "absent.json"], "absent.json"),
        (["serve", "--host", "0.0.0.0"], "open to other machines"),
        (["serve", "--port", "70000"], "--port: Expected `int` <= 65535"),
        (["serve", "--api-key-file", "absent"], "cannot read the API key file"),
        (["pull", "no-owner"], "not a hub name"),
    ],
)
def test_every_error_is_one_line_with_exit_code_2(
    checkpoint: Path, cache: Path, arguments: list[str], text: str
) -> None:
    assert_failed(guardhouse(cache, *arguments, GUARDHOUSE_MODEL=str(checkpoint)), text)


def test_an_unknown_variable_is_refused(cache: Path) -> None:
    assert_failed(guardhouse(cache, "a", GUARDHOUSE_MODLE="x"), "unknown setting: GUARDHOUSE_MODLE")


def test_serve_has_a_flag_with_help_for_every_setting(cache: Path) -> None:
    text = guardhouse(cache, "serve", "--help", COLUMNS="200").stdout
    for spec in setting_specs():
        assert spec.flag in text
        assert spec.variable in text


def test_serve_says_what_runs_and_stops_when_told(checkpoint: Path, cache: Path) -> None:
    environment = {**os.environ, "GUARDHOUSE_CACHE_DIR": str(cache)}
    command = [*COMMAND, "serve", "--port", "0", "--model", str(checkpoint), "--threads", "1", "--threshold", "1"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        address = first[first.index("http://") : first.index(";")]
        assert wait_for(lambda: requests.get(f"{address}/health", timeout=10).status_code == 200, 30)
        assert requests.post(address + RUN, json={"prompt": "a cake"}, timeout=30).json()["success"] is True
        process.send_signal(signal.SIGTERM)
        banner = process.stderr.read()
        assert process.wait(20) in {0, -signal.SIGTERM}
    assert "random-guard" in banner
    assert f"curl {address}{RUN}" in banner
    assert "requests.post" in banner


def test_serve_stops_with_one_line_when_the_model_cannot_be_loaded(cache: Path, tmp_path: Path) -> None:
    done = guardhouse(cache, "serve", "--port", "0", "--model", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("guardhouse: ")
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told(cache: Path, checkpoint: Path) -> None:
    import socket  # noqa: PLC0415

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_failed(guardhouse(cache, "serve", "--port", port, "--model", str(checkpoint)), "cannot listen on")


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", ["serve", "check"])
def test_cuda_without_a_gpu_is_told(cache: Path, checkpoint: Path, command: str) -> None:
    arguments = [command, "--device", "cuda", "--model", str(checkpoint), *(["hello"] if command == "check" else [])]
    done = guardhouse(cache, *arguments)
    assert done.returncode == 2, done.stderr
    assert re.search(r"guardhouse: .*(needs torch|was built without CUDA|finds no GPU)", done.stderr)
    assert "Traceback" not in done.stderr


def test_models_lists_what_was_pulled(cache: Path) -> None:
    folder = cache / "models" / "someone" / "Guard-AWQ"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    done = guardhouse(cache, "models")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines() if line] == ["embedded", "someone/Guard-AWQ"]


def test_doctor_names_what_is_missing_and_how_to_fix_it(cache: Path, checkpoint: Path) -> None:
    good = guardhouse(cache, "doctor", "--model", str(checkpoint))
    assert good.returncode == 0, good.stdout
    for subject in ("model", "kernels", "processor", "threads", "memory", "cache"):
        assert re.search(rf"^.. {subject} ", good.stdout, re.MULTILINE), subject
    bad = guardhouse(cache, "doctor", "--model", "nobody/nothing")
    assert bad.returncode == 2
    assert "fix: guardhouse pull nobody/nothing" in bad.stdout


def test_help_needs_no_model(cache: Path) -> None:
    assert "guardhouse serve" in guardhouse(cache, "--help").stdout
    assert "guardhouse serve" in guardhouse(cache, "-h").stdout
