"""What surrounds the routes: keys, health, metrics, log lines, clients that go away, loading, a full queue."""

import json
import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from checkpoints import GUARD_TEMPLATE, write_checkpoint
from served import ALIAS, RUN, Served, served, serving, wait_for, write_guard_checkpoint

from guardhouse.config import Settings
from guardhouse.errors import CheckpointError, ConfigError
from guardhouse.guard.guard import Guard
from guardhouse.server.app import create_app

SLOW: dict[str, Any] = {"prompt": "a cake", "raw": True, "max_tokens": 3000}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "random-guard")


def test_health_says_what_really_runs(server: Served) -> None:
    health = requests.get(f"{server.url}/health", timeout=10).json()
    assert health["status"] == "ok"
    assert health["model"] == server.guard.info.name
    assert health["embedded"] is False
    assert health["aliases"] == [ALIAS]
    assert health["window"] == 4096
    assert health["uptime_s"] > 0


def test_metrics_count_requests_verdicts_and_blocks_but_hold_no_text(server: Served) -> None:
    server.post({"prompt": "an unmistakable word"})
    server.post({}, path="/some/unmistakable/path")
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    assert 'guardhouse_requests_total{route="/client/v4/accounts/{account}/ai/run/{model:path}",status="200"}' in text
    assert 'guardhouse_requests_total{route="none",status="400"}' in text
    assert 'guardhouse_verdicts_total{verdict="safe"}' in text
    assert "guardhouse_request_seconds_bucket" in text
    assert "guardhouse_engine_free_blocks" in text
    assert "unmistakable" not in text


def test_a_log_line_names_the_route_and_the_request_and_no_text(
    server: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="guardhouse"):
        request_id = server.post({"prompt": "an unmistakable word"}).headers["cf-ai-req-id"]
        assert wait_for(lambda: request_id in caplog.text)
    assert "POST /client/v4/accounts/{account}/ai/run/{model:path} 200" in caplog.text
    assert "unmistakable" not in caplog.text


def test_a_caller_that_stops_waiting_frees_the_engine(server: Served) -> None:
    with pytest.raises(requests.exceptions.Timeout):
        requests.post(server.url + RUN, json=SLOW, timeout=0.3)
    assert server.wait_until_idle(timeout_s=2)


def test_a_reader_that_leaves_a_stream_frees_the_engine(server: Served) -> None:
    assert server.wait_until_idle()  # what earlier tests left behind
    with requests.post(server.url + RUN, json={**SLOW, "stream": True}, timeout=10, stream=True) as response:
        next(response.iter_lines())
        assert server.num_active() == 1
    assert server.wait_until_idle()


def test_keys_open_the_door_and_health_stays_open(checkpoint: Path) -> None:
    with served(checkpoint, api_keys=("sesame",)) as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            response = server.post({"prompt": "hi"}, headers=headers)
            assert response.status_code == 401
            assert response.json() == {
                "result": None,
                "success": False,
                "errors": [{"code": 10000, "message": "Authentication error"}],
                "messages": [],
            }
            assert "cf-ai-req-id" not in response.headers
        malformed = server.post({"prompt": "hi"}, headers={"Authorization": "Basic eA=="})
        assert (malformed.status_code, malformed.json()["errors"][0]["code"]) == (400, 6003)
        for headers in ({"Authorization": "Bearer sesame"}, {"X-Auth-Key": "sesame"}):
            assert server.post({"prompt": "hi"}, headers=headers).status_code == 200
        assert requests.get(f"{server.url}/health", timeout=10).status_code == 200
        assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 401


def test_an_unsafe_text_is_answered_with_its_categories_streamed_or_not(checkpoint: Path) -> None:
    with served(checkpoint, threshold=0.0) as server:
        plain = server.post({"prompt": "hi"}).json()["result"]
        assert re.fullmatch(r"unsafe\nO[1-3](,O[1-3])*", plain["response"])
        assert plain["verdict"]["codes"] == plain["response"].split("\n")[1].split(",")
        assert plain["usage"]["completion_tokens"] > 3
        assert json.dumps(plain["response"]) in server.post({"prompt": "hi", "stream": True}).text
        assert (
            'guardhouse_verdicts_total{verdict="unsafe"} 2.0' in requests.get(f"{server.url}/metrics", timeout=9).text
        )


def test_an_application_open_to_the_network_is_not_even_built() -> None:
    with pytest.raises(ConfigError, match="open to other machines"):
        create_app(refuse_to_load, Settings(host="0.0.0.0"))


def refuse_to_load(progress: Callable[[int, int], None]) -> Guard:
    raise CheckpointError("model.safetensors: tensor lm_head.weight is missing")


def test_a_model_that_cannot_be_loaded_leaves_the_server_unhealthy() -> None:
    with serving(create_app(refuse_to_load, Settings())) as url:
        assert wait_for(lambda: requests.get(f"{url}/health", timeout=10).json()["status"] == "failed")
        health = requests.get(f"{url}/health", timeout=10)
        assert health.status_code == 503
        assert "lm_head.weight is missing" in health.json()["error"]
        assert requests.post(url + RUN, json={"prompt": "hi"}, timeout=10).status_code == 503


def test_requests_during_loading_are_told_to_come_back(checkpoint: Path) -> None:
    may_go_on = threading.Event()
    settings = Settings(model=str(checkpoint), threads=1, cache_dir=checkpoint / "cache")

    def load_guard(progress: Callable[[int, int], None]) -> Guard:
        progress(1, 4)
        may_go_on.wait(30)
        return Guard.load(checkpoint, settings=settings)

    with serving(create_app(load_guard, settings)) as url:
        health = requests.get(f"{url}/health", timeout=10)
        assert (health.status_code, health.json()["status"], health.json()["progress"]) == (503, "loading", 0.25)
        response = requests.post(url + RUN, json={"prompt": "hi"}, timeout=10)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (503, 7009)
        assert response.headers["retry-after"]
        may_go_on.set()
        assert wait_for(lambda: requests.get(f"{url}/health", timeout=10).status_code == 200, 60)
        assert requests.post(url + RUN, json={"prompt": "hi"}, timeout=10).status_code in {200, 500}


def test_a_full_queue_is_busy_and_a_late_answer_a_timeout(checkpoint: Path) -> None:
    with served(checkpoint, max_num_seqs=1, max_queue=1, request_timeout_s=1.0, threshold=1.0) as server:
        replies: list[requests.Response] = []
        callers = [threading.Thread(target=lambda: replies.append(server.post(SLOW))) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        by_code = {reply.json()["errors"][0]["code"]: reply for reply in replies if reply.status_code != 200}
        assert by_code[3040].status_code == 429
        assert int(by_code[3040].headers["retry-after"]) >= 1
        assert by_code[3007].status_code == 408
        assert server.wait_until_idle()
        assert server.post({"prompt": "hi"}).status_code == 200


def test_an_answer_that_is_no_verdict_is_an_error_and_never_safe(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "random", template=GUARD_TEMPLATE, max_positions=4096)
    with served(folder) as server:
        for body in ({"prompt": "hi"}, {"prompt": "hi", "stream": True}):
            response = server.post(body)
            assert (response.status_code, response.json()["errors"][0]["code"]) == (500, 8008)
            assert "gave no verdict" in response.text
