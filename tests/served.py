"""A running server for tests: real sockets, a real engine, a checkpoint of a few thousand random weights.

Knows: how to make a random checkpoint answer `safe` or `unsafe`, how to run the application in a thread or a process.
Never knows: what is tested.

The weights know nothing about safety; tests that use them ask about the protocol only.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn
from checkpoints import GUARD_TEMPLATE, write_checkpoint
from safetensors.numpy import load_file, save_file

from guardhouse.config import Settings
from guardhouse.guard.guard import Guard
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.server.app import create_app
from guardhouse.server.serve import listen, uvicorn_config

ALIAS = "@hf/thebloke/llamaguard-7b-awq"
RUN = f"/client/v4/accounts/local/ai/run/{ALIAS}"


def write_guard_checkpoint(folder: Path, **fields: Any) -> Path:
    """A random checkpoint whose next token is nearly always `safe` or `unsafe`, as a guard's is.

    Every embedding points along dimension 0, which no layer can undo, and the head reads `safe` and `unsafe` there.
    """
    fields = {"template": GUARD_TEMPLATE, "dtype": "float32", "max_positions": 4096, **fields}
    write_checkpoint(folder, **fields)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:, 0] = 40.0
    tokenizer = Tokenizer.load(folder)
    for word in ("safe", "unsafe"):
        weights["lm_head.weight"][tokenizer.encode(word)[0], 0] = 4.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@dataclass(frozen=True)
class Served:
    """A server that answers, and the guard behind it."""

    url: str
    guard: Guard

    def post(self, body: Any = None, *, path: str = RUN, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30, **options)

    def wait_until_idle(self, timeout_s: float = 10.0) -> bool:
        """True once no request is in the engine."""
        return wait_for(lambda: self.num_active() == 0, timeout_s)

    def num_active(self) -> int:
        stats = self.guard.engine_stats()
        return stats.num_running + stats.num_waiting


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.005)
    return False


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run an ASGI application on a free loopback port, in a thread; yields its address."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@contextmanager
def served(model: Path, **fields: Any) -> Iterator[Served]:
    """Serve this checkpoint under these settings, once it has loaded."""
    settings = Settings(
        **{
            "model": str(model),
            "device": "auto",
            "threads": 1,
            "cache_dir": model / "cache",
            "data_dir": model / "data",
            **fields,
        }
    )
    loaded: list[Guard] = []

    def load_guard(progress: Callable[[int, int], None]) -> Guard:
        loaded.append(Guard.load(model, settings=settings, progress=progress))
        return loaded[0]

    with serving(create_app(load_guard, settings)) as url:
        assert wait_for(lambda: requests.get(f"{url}/health", timeout=10).status_code == 200, 60), "never got ready"
        yield Served(url, loaded[0])


@contextmanager
def command_line_server(home: Path, *flags: str) -> Iterator[str]:
    """`guardhouse serve` as a process of its own, with the embedded guard; yields its address once it answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUARDHOUSE_")}
    folders = ["--cache-dir", str(home / "cache"), "--data-dir", str(home / "data")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "guardhouse.cli", "serve", "--port", str(port), "--threads", "1", *folders, *flags]
    url = f"http://127.0.0.1:{port}"
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert wait_for(lambda: process.poll() is not None or is_healthy(url), 60), "never got ready"
        assert process.poll() is None, (home / "serve.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def is_healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=10).status_code == 200
    except requests.ConnectionError:
        return False
