"""A real server process is killed, at any moment, again and again: no accepted job is lost, no result ever changes.

The same is asked of two processes on one data folder, of which only one may run items.
"""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests
from served import RUN, write_guard_checkpoint

NUM_KILLS = 6
BATCH_SIZE = 6


class Process:
    """`guardhouse serve` on a free port."""

    def __init__(self, model: Path, data: Path, max_wait_s: float = 60) -> None:
        environ = {**os.environ, "GUARDHOUSE_DATA_DIR": str(data), "GUARDHOUSE_CACHE_DIR": str(data.parent / "cache")}
        command = [
            sys.executable,
            "-m",
            "guardhouse.cli",
            "serve",
            "--model",
            str(model),
            "--port",
            "0",
            "--threads",
            "1",
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, text=True)
        assert self.process.stderr is not None
        banner = self.process.stderr.readline()
        found = re.search(r"listens on (http://\S+?);", banner)
        assert found, banner
        self.url = found[1] + RUN
        self.reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self.reader.start()
        deadline = time.monotonic() + max_wait_s
        while requests.get(found[1] + "/health", timeout=10).status_code != 200:
            assert time.monotonic() < deadline, "never got ready"
            time.sleep(0.02)

    def queue(self, body: Any) -> requests.Response:
        return requests.post(f"{self.url}?queueRequest=true", json=body, timeout=60)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Client(threading.Thread):
    """Submits batches and polls them until the server dies under it; remembers all that it was told."""

    def __init__(self, server: Process, accepted: dict[str, list[str]], seen: dict[str, Any], seed: int) -> None:
        super().__init__(daemon=True)
        self.server, self.accepted, self.seen = server, accepted, seen
        self.random = random.Random(seed)
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            while True:
                self.submit()
                for request_id in self.random.sample(list(self.accepted), k=min(3, len(self.accepted))):
                    self.poll(request_id)
        except requests.RequestException:
            return  # the server was killed

    def submit(self) -> None:
        references = [f"{self.name} {self.random.random()}" for _ in range(BATCH_SIZE)]
        items = [
            {"prompt": reference, "external_reference": reference, "raw": True, "temperature": 1, "max_tokens": 4}
            for reference in references
        ]  # without a seed every run gives another text: an item that ran twice would be seen
        response = self.server.queue({"requests": items})
        if response.status_code == 202:
            self.accepted[response.json()["result"]["request_id"]] = references
        else:
            self.problems.append(response.text)

    def poll(self, request_id: str) -> None:
        response = self.server.queue({"request_id": request_id})
        if response.status_code == 200:
            result = response.json()["result"]
            if self.seen.setdefault(request_id, result) != result:
                self.problems.append(f"{request_id} changed")
        elif response.status_code != 202:
            self.problems.append(response.text)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard_checkpoint(tmp_path_factory.mktemp("killed") / "guard")


def finish(server: Process, accepted: dict[str, list[str]], seen: dict[str, Any]) -> None:
    """Poll until every accepted job is done; each must hold every item once, and be what was seen before."""
    for request_id, references in accepted.items():
        deadline = time.monotonic() + 60
        while (response := server.queue({"request_id": request_id})).status_code == 202:
            assert time.monotonic() < deadline, f"{request_id} is never done"
            time.sleep(0.02)
        assert response.status_code == 200, f"{request_id} was accepted and is lost: {response.text}"
        result = response.json()["result"]
        assert [found["external_reference"] for found in result["responses"]] == references
        assert all(found["success"] for found in result["responses"])
        assert seen.setdefault(request_id, result) == result


def check_files(data: Path, accepted: dict[str, list[str]]) -> None:
    with sqlite3.connect(data / "jobs.sqlite3") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counts = Counter(row[0] for row in db.execute("SELECT jobs.id FROM jobs JOIN items ON job = jobs.number"))
        assert {request_id: counts[request_id] for request_id in accepted} == dict.fromkeys(accepted, BATCH_SIZE)
        assert db.execute("SELECT COUNT(*) FROM items WHERE request IS NOT NULL OR result IS NULL").fetchone() == (0,)


def test_no_accepted_job_is_lost_or_answered_twice_by_kills(model: Path, tmp_path: Path) -> None:
    accepted: dict[str, list[str]] = {}
    seen: dict[str, Any] = {}
    moments = random.Random(7)
    for number in range(NUM_KILLS):
        server = Process(model, tmp_path / "data")
        clients = [Client(server, accepted, seen, seed=10 * number + index) for index in range(2)]
        for client in clients:
            client.start()
        time.sleep(moments.uniform(0.02, 0.5))
        server.kill()
        for client in clients:
            client.join(60)
            assert client.problems == []
    server = Process(model, tmp_path / "data")
    try:
        finish(server, accepted, seen)
    finally:
        server.kill()
    assert len(accepted) > NUM_KILLS, "too few jobs to say anything"
    check_files(tmp_path / "data", accepted)


def test_a_second_process_goes_on_where_a_killed_one_ended(model: Path, tmp_path: Path) -> None:
    accepted: dict[str, list[str]] = {}
    seen: dict[str, Any] = {}
    first, second = Process(model, tmp_path / "data"), Process(model, tmp_path / "data")
    try:
        clients = [Client(server, accepted, seen, seed) for seed, server in enumerate((first, second))]
        for client in clients:
            client.start()
        time.sleep(0.5)
        first.kill()
        clients[0].join(60)
        time.sleep(0.5)
    finally:
        first.kill()
        clients[1].server = first  # it ends with its next request
        clients[1].join(60)
    try:
        finish(second, accepted, seen)
    finally:
        second.kill()
    assert [client.problems for client in clients] == [[], []]
    check_files(tmp_path / "data", accepted)
