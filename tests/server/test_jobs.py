"""Asynchronous batches over real sockets: submit, poll, what is refused, what a restart keeps."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from served import ALIAS, RUN, Served, served, wait_for, write_guard_checkpoint

QUEUE = f"{RUN}?queueRequest=true"
CAKE = "how to make a cake"


def submit(server: Served, requests: list[Any]) -> str:
    response = server.post({"requests": requests}, path=QUEUE)
    body = response.json()
    assert response.status_code == 202, body
    assert body["success"] is True
    assert body["result"]["status"] == "queued"
    assert body["result"]["model"] == ALIAS
    request_id: str = body["result"]["request_id"]
    return request_id


def finished(server: Served, request_id: str) -> Any:
    for _ in range(600):
        response = server.post({"request_id": request_id}, path=QUEUE)
        body = response.json()
        if response.status_code == 200:
            return body["result"]
        assert response.status_code == 202, body
        assert body["result"]["status"] in {"queued", "running"}
        assert body["result"]["request_id"] == request_id
        time.sleep(0.02)
    raise AssertionError("never done")


def score_of(result: Any) -> float | None:
    return result["verdict"]["score"] if "verdict" in result else None


def test_a_batch_gives_what_each_input_gives_alone(server: Served) -> None:
    inputs = [
        {"prompt": CAKE},
        {"messages": [{"role": "user", "content": "how to make a bomb"}]},
        {"prompt": CAKE, "raw": True, "max_tokens": 3},
        {"prompt": CAKE, "seed": 5, "temperature": 1, "max_tokens": 5, "raw": True},
    ]
    done = finished(
        server, submit(server, [{**body, "external_reference": f"row {n}"} for n, body in enumerate(inputs)])
    )
    assert [response["id"] for response in done["responses"]] == [0, 1, 2, 3]
    alone = [server.post(body).json()["result"] for body in inputs]
    for number, (response, expected) in enumerate(zip(done["responses"], alone, strict=True)):
        assert response["success"] is True
        assert response["errors"] == []
        assert response["external_reference"] == f"row {number}"
        assert response["result"]["response"] == expected["response"]
        assert score_of(response["result"]) == score_of(expected)
        assert response["result"]["result"]["response"] == expected["response"]
    total = sum(expected["usage"]["total_tokens"] for expected in alone)
    assert done["usage"]["total_tokens"] == total


def test_an_input_that_fails_alone_fails_alone_in_a_batch(server: Served) -> None:
    done = finished(
        server, submit(server, [{"messages": []}, {"prompt": "hi", "max_tokens": 9999, "raw": True}, {"prompt": CAKE}])
    )
    codes = [[error["code"] for error in response["errors"]] for response in done["responses"]]
    assert codes == [[5006], [5021], []]
    assert done["responses"][0]["result"] == {}
    assert done["responses"][0]["success"] is False
    assert done["responses"][0]["external_reference"] is None
    assert done["responses"][2]["success"] is True


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "'requests'"),
        ({"prompt": CAKE}, 400, "'requests'"),
        ({"requests": []}, 400, "1 to"),
        ({"requests": {}}, 400, "'requests'"),
        ({"requests": [{"prompt": CAKE}, {"prompt": 5}]}, 400, "'/requests/1': oneOf"),
        ({"requests": ["x"]}, 400, "'/requests/0'"),
        ({"requests": [{"prompt": CAKE, "external_reference": 7}]}, 400, "external_reference"),
        ({"request_id": 7}, 400, "'request_id'"),
        ({"request_id": "5b0c8f4e-0000-4000-8000-000000000000"}, 404, "no such request_id"),
        ({"request_id": "' OR 1=1 --"}, 404, "no such request_id"),
        ([], 400, "'requests'"),
    ],
)
def test_what_is_no_batch_is_refused(server: Served, body: Any, status: int, text: str) -> None:
    response = server.post(body, path=QUEUE)
    answer = response.json()
    assert response.status_code == status, answer
    assert answer["success"] is False
    assert answer["errors"][0]["code"] == 5006
    assert text in answer["errors"][0]["message"]


def test_a_poll_needs_no_option_as_the_binding_sends_none(server: Served) -> None:
    request_id = submit(server, [{"prompt": CAKE}])
    assert server.post({"request_id": request_id}).status_code in {200, 202}
    assert server.post({"prompt": CAKE, "request_id": "mine"}).json()["result"]["response"] == "safe"


def test_a_submission_without_the_option_is_refused(server: Served) -> None:
    assert server.post({"requests": [{"prompt": CAKE}]}).status_code == 400
    assert server.post({"requests": [{"prompt": CAKE}]}, path=f"{RUN}?queueRequest=false").status_code == 400


def test_a_batch_for_an_unknown_model_and_one_that_is_too_large_are_refused(server: Served) -> None:
    unknown = server.post({"requests": [{"prompt": CAKE}]}, path=QUEUE.replace(ALIAS, "@cf/nobody/nothing"))
    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (400, 5007)
    large = server.post({"requests": [{"prompt": "x" * 100_000}] * 110}, path=QUEUE)
    assert (large.status_code, large.json()["errors"][0]["code"]) == (413, 3006)


def test_a_batch_survives_a_restart_and_its_results_expire(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    with served(folder) as server:
        before = submit(server, [{"prompt": CAKE}] * 40)
    with served(folder) as server:
        done = finished(server, before)
        assert len(done["responses"]) == 40
        assert server.post({"request_id": before}, path=QUEUE).json()["result"] == done
    with served(folder, job_retention_s=0.01) as server:
        assert server.post({"request_id": before}, path=QUEUE).status_code == 404


def test_what_was_asked_is_on_no_disk_once_it_is_answered(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    secret = "a sentence that nobody should find on this disk"
    with served(folder) as server:
        finished(server, submit(server, [{"prompt": f"{secret} {number}"} for number in range(30)]))
        files = [path for path in (folder / "data").rglob("*") if path.is_file()]
        assert len(files) >= 2
        assert wait_for(lambda: not any(secret.encode() in path.read_bytes() for path in files))
        assert json.dumps(secret)[1:-1] == secret


def test_a_server_that_never_stored_a_job_leaves_no_files(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    with served(folder) as server:
        server.post({"prompt": CAKE})
    assert not (folder / "data").exists()


def test_a_full_store_answers_429_and_says_when_to_try_again(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    large = [{"prompt": "a " * 1000} for _ in range(300)]  # 600 kB, takes a while
    with served(folder, job_queue_mib=1) as server:
        submit(server, large)
        response = server.post({"requests": large}, path=QUEUE)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (429, 3040)
        assert int(response.headers["retry-after"]) > 0


def test_those_who_wait_for_an_answer_pass_a_long_batch(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    with served(folder) as server:
        batch = submit(server, [{"prompt": "a " * 500} for _ in range(400)])
        assert server.post({"prompt": CAKE}).status_code == 200
        assert server.post({"request_id": batch}, path=QUEUE).status_code == 202, "the batch was already done"
