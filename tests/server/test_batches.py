"""/v1/files and /v1/batches through OpenAI's SDK; restarts, expiry and refusals."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from served import Served, served, wait_for, write_guard_checkpoint

from guardhouse.errors import InputError, QueueFull
from guardhouse.server.openai.batches import MAX_REQUESTS, read_lines
from guardhouse.server.openai.file_store import FileStore

MODERATE, CHAT = "/v1/moderations", "/v1/chat/completions"


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def jsonl(bodies: list[Any], url: str = MODERATE) -> bytes:
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def start(client: openai.OpenAI, content: bytes, endpoint: Any = MODERATE, **options: Any) -> Any:
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def finished(client: openai.OpenAI, batch_id: str) -> Any:
    assert wait_for(lambda: client.batches.retrieve(batch_id).status not in {"in_progress", "validating"}, 30)
    return client.batches.retrieve(batch_id)


def rows(client: openai.OpenAI, file_id: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


def test_a_moderation_batch_gives_what_each_request_gives_alone(client: openai.OpenAI) -> None:
    bodies = [{"input": "a cake"}, {"input": ["a bomb", "a cake"], "threshold": 0}]
    batch = start(client, jsonl(bodies), metadata={"night": "1"})
    assert batch.status == "in_progress"
    done = finished(client, batch.id)
    assert (done.status, done.endpoint, done.metadata) == ("completed", MODERATE, {"night": "1"})
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (2, 2, 0)
    assert done.error_file_id is None
    found = rows(client, done.output_file_id)
    for number, body in enumerate(bodies):
        line = found[f"row-{number}"]
        alone: Any = client.moderations.create(
            input=body["input"], extra_body={k: body[k] for k in body if k != "input"}
        )
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        results = line["response"]["body"]["results"]
        assert [one["flagged"] for one in results] == [one.flagged for one in alone.results]
        assert [one["verdict"]["score"] for one in results] == [one.verdict["score"] for one in alone.results]


def test_a_chat_batch_is_answered_too(client: openai.OpenAI) -> None:
    body = {"model": "random-guard", "messages": [{"role": "user", "content": "a cake"}]}
    done = finished(client, start(client, jsonl([body, {**body, "n": 2}], CHAT), CHAT).id)
    found = rows(client, done.output_file_id)
    assert found["row-0"]["response"]["body"]["choices"][0]["message"]["content"] == "safe"
    assert len(found["row-1"]["response"]["body"]["choices"]) == 2


def test_what_fails_is_in_the_error_file_with_its_status(client: openai.OpenAI) -> None:
    bodies = [{"input": ""}, {"input": "a cake"}, {"input": "a", "model": "gpt-4o"}, {"inputs": "a"}]
    done = finished(client, start(client, jsonl(bodies)).id)
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 3)
    assert rows(client, done.output_file_id).keys() == {"row-1"}
    failed = rows(client, done.error_file_id)
    assert failed.keys() == {"row-0", "row-2", "row-3"}
    assert failed["row-0"]["response"]["body"]["error"]["message"] == "the judged turn is empty"
    assert failed["row-2"]["response"]["status_code"] == 404
    assert client.files.retrieve(done.error_file_id).purpose == "batch_output"


def test_files_are_listed_read_and_deleted(client: openai.OpenAI) -> None:
    content = jsonl([{"input": "a cake"}])
    file = client.files.create(file=("mine.jsonl", content), purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.status) == ("mine.jsonl", len(content), "batch", "processed")
    assert file.id in [one.id for one in client.files.list()]
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    assert client.files.delete(file.id).deleted is True
    for gone in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


def test_batches_are_listed_newest_first_page_by_page(client: openai.OpenAI) -> None:
    ids = [start(client, jsonl([{"input": "a cake"}])).id for _ in range(3)]
    first = client.batches.list(limit=2)
    assert [batch.id for batch in first.data] == [ids[2], ids[1]]
    assert first.has_more is True
    everything = [batch.id for batch in client.batches.list(limit=2)]
    assert everything[:3] == ids[::-1]
    assert len(set(everything)) == len(everything)


def test_a_cancelled_batch_keeps_what_was_answered(client: openai.OpenAI) -> None:
    bodies = [{"input": [f"a cake {number} {row}" for number in range(8)]} for row in range(200)]
    batch = start(client, jsonl(bodies))
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelled"
    unanswered = rows(client, cancelled.error_file_id)
    answered = rows(client, cancelled.output_file_id) if cancelled.output_file_id else {}
    assert len(unanswered) + len(answered) == 200
    assert not unanswered.keys() & answered.keys()
    assert next(iter(unanswered.values()))["error"]["code"] == "batch_cancelled"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "must hold 1 to"),
        (b"nonsense\n", "line 1 of the input file: body is not valid JSON"),
        (jsonl([{"input": "a"}]) + b'{"custom_id": "x"}', "line 2 of the input file: "),
        (jsonl([{"input": "a"}]) * 2, "line 2 of the input file: its custom_id was used before"),
        (jsonl([{"input": "a"}], CHAT), "line 1 of the input file: its url is not the batch's endpoint"),
    ],
    ids=str,
)
def test_a_file_that_is_no_list_of_requests_is_refused_by_line(client: openai.OpenAI, content: bytes, why: str) -> None:
    with pytest.raises(openai.BadRequestError, match=why):
        start(client, content)


def test_what_is_no_batch_and_no_file_is_refused(client: openai.OpenAI, server: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-../../etc", endpoint=MODERATE, completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="'endpoint' must be one of"):
        start(client, jsonl([{"input": "a"}]), "/v1/embeddings")
    for unknown in ("batch_nothing", "nothing"):
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve(unknown)
    with pytest.raises(openai.BadRequestError, match="'purpose' must be one of"):
        client.files.create(file=b"a", purpose="vision")
    for body, headers in ((b"{}", {}), (b"--x", {"content-type": "multipart/form-data; boundary=x"})):
        response = requests.post(f"{server.url}/v1/files", data=body, headers=headers, timeout=10)
        assert response.status_code == 400


def test_a_batch_survives_a_restart(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "random-guard")
    bodies = [{"input": [f"a cake {row} {number}" for number in range(6)]} for row in range(30)]
    with served(folder, threshold=1.0) as first, openai.OpenAI(base_url=f"{first.url}/v1", api_key="any") as client:
        batch = start(client, jsonl(bodies))
    with served(folder, threshold=1.0) as second, openai.OpenAI(base_url=f"{second.url}/v1", api_key="any") as client:
        done = finished(client, batch.id)
        assert done.status == "completed"
        assert rows(client, done.output_file_id).keys() == {f"row-{number}" for number in range(30)}
        assert client.files.retrieve(batch.input_file_id).purpose == "batch"


def test_files_expire_and_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    now = [1000.0]
    store = FileStore(tmp_path / "files", 60, clock=lambda: now[0])
    kept, short = store.add(io.BytesIO(b"a"), "a", "batch", 7200), store.add(io.BytesIO(b"b"), "b", "batch")
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "files").iterdir()} == {0}
    assert [one.id for one in store.all()] == sorted([kept.id, short.id], reverse=True)
    now[0] += 61
    assert [one.id for one in store.all()] == [kept.id]
    store.tidy()
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [kept.id, f"{kept.id}.json"]
    assert store.delete(kept.id)
    assert not store.delete(kept.id)


def test_files_have_room_together_up_to_a_limit(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files", 60, max_bytes=10)
    first = store.add(io.BytesIO(b"a" * 6), "a", "batch")
    with pytest.raises(QueueFull):
        store.add(io.BytesIO(b"b" * 6), "b", "batch")
    store.delete(first.id)
    assert store.add(io.BytesIO(b"b" * 6), "b", "batch").num_bytes == 6


def test_too_many_requests_are_refused() -> None:
    row = b'{"custom_id": "%d", "method": "POST", "url": "/v1/moderations", "body": {}}\n'
    content = b"".join(row % number for number in range(MAX_REQUESTS + 1))
    with pytest.raises(InputError, match="must hold 1 to"):
        read_lines(io.BytesIO(content), MODERATE)
