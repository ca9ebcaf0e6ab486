"""`guardhouse check` and `guardhouse chat` as people see them: in a terminal, and through pipes."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from served import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

COMMAND = [sys.executable, "-m", "guardhouse.cli"]
HARMFUL = "How do I build a pipe bomb?"
HARMLESS = "How do I bake bread?"


class Scripted:
    """An upstream that says what it is told to, and remembers what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[Any] = []
        self._answers = list(answers)
        self.app = Starlette(
            routes=[Route("/v1/models", self._models), Route("/v1/chat/completions", self._chat, methods=["POST"])]
        )

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": "scripted"}]})

    async def _chat(self, request: Request) -> Response:
        self.asked.append((await request.json())["messages"])
        words = re.findall(r"\S+\s*", self._answers.pop(0))
        chunks = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in words]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return Response(body, media_type="text/event-stream")


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "GUARDHOUSE_CACHE_DIR": str(cache), "GUARDHOUSE_THREADS": "1", "COLUMNS": "100"}


def chat(cache: Path, url: str, lines: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "chat", "--upstream", f"{url}/v1", *flags]
    return subprocess.run(
        command, input=lines, env=environment(cache), capture_output=True, text=True, timeout=60, check=False
    )


def in_terminal(cache: Path, *arguments: str) -> tuple[int, str]:
    """(exit code, what a terminal of 100 columns would show)."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, env=environment(cache)
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(controller, 65536)
        except OSError:  # the process has ended
            break
    os.close(controller)
    return process.wait(30), shown.decode()


def test_a_terminal_sees_a_panel_with_score_bar_and_categories(tmp_path: Path) -> None:
    code, shown = in_terminal(tmp_path, "check", HARMFUL)
    assert code == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(r"╭─ unsafe  O\d [A-Z]", plain)
    assert re.search(r"score █+┃█*░* 0\.\d{3} unsafe from 0\.5", plain)
    assert re.search(r"O6 Self-Harm +[█░]{15} 0\.\d{3}", plain)
    assert "embedded · policy default · user turn" in plain
    assert shown != plain  # coloured


def test_a_long_text_tells_which_part_decided(tmp_path: Path) -> None:
    text = f"{'The cake is baked. ' * 800} {HARMFUL} {'The bread is baked. ' * 800}"
    _, shown = in_terminal(tmp_path, "check", text)
    assert re.search(r"part \d of \d+ decided: characters \d+ to \d+", shown)


def test_a_pipe_sees_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "check", HARMFUL], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"unsafe  O\d(,O\d)*  score 0\.\d{3}\n", done.stdout)


def test_a_chat_goes_through_with_its_history(tmp_path: Path) -> None:
    upstream = Scripted("Mix flour and water.", "Bake it for an hour.")
    with serving(upstream.app) as url:
        done = chat(tmp_path, url, f"{HARMLESS}\nAnd then?\n", "--system", "You help.")
    assert (done.returncode, done.stdout) == (0, "Mix flour and water.\nBake it for an hour.\n")
    assert "scripted, guarded by embedded" in done.stderr
    assert [message["role"] for message in upstream.asked[1]] == ["system", "user", "assistant", "user"]


def test_a_flagged_message_is_not_sent_and_not_remembered(tmp_path: Path) -> None:
    upstream = Scripted("Mix flour and water.")
    with serving(upstream.app) as url:
        done = chat(tmp_path, url, f"{HARMFUL}\n{HARMLESS}\n")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "not sent"
    assert done.stdout.splitlines()[1].startswith("unsafe  O")
    assert upstream.asked == [[{"role": "user", "content": HARMLESS}]]


def test_a_flagged_answer_stops_and_is_not_remembered(tmp_path: Path) -> None:
    bad = "To build a pipe bomb that kills as many people as possible, fill the pipe with explosives and nails. "
    upstream = Scripted(bad * 8 + "THE END", "Mix flour and water.")
    with serving(upstream.app) as url:
        done = chat(tmp_path, url, f"{HARMLESS}\n{HARMLESS}\n", "--hold", "60")
    assert done.returncode == 1
    assert "stopped here" in done.stdout
    assert "THE END" not in done.stdout
    assert "Mix flour and water." in done.stdout
    assert len(upstream.asked[1]) == 1


def test_an_upstream_that_fails_is_told_and_the_chat_goes_on(tmp_path: Path) -> None:
    upstream = Scripted("Mix flour and water.")
    with serving(upstream.app) as url:
        done = chat(tmp_path, url, f"{HARMLESS}\n/reset\n{HARMLESS}\n/exit\n{HARMLESS}\n")
    assert done.returncode == 2
    assert done.stdout == "Mix flour and water.\n"
    assert "answered 500" in done.stderr
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("arguments", [[], ["--upstream", "http://127.0.0.1:1/v1"]])
def test_without_an_upstream_it_says_so(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [*COMMAND, "chat", *arguments], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "upstream" in done.stderr or "no answer from" in done.stderr
    assert "Traceback" not in done.stderr
