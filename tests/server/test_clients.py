"""Real clients, unchanged but for the base URL: curl, the official Python SDK, the samples of the documentation."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudflare
import pytest
import requests
from adapters import write_adapter
from served import ALIAS, RUN, Served

from guardhouse.guard.guard import EMBEDDED_FOLDER

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "samples"
QUESTION = '{"messages": [{"role": "user", "content": "how to make a cake"}]}'


def run(server: Served, *command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {**os.environ, "BASE_URL": server.url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_streaming_sample_prints_the_verdict(server: Served) -> None:
    assert run(server, "node", str(SAMPLES / "stream.mjs")) == "safe\n"


def test_the_plain_sample_prints_verdict_and_score(server: Served) -> None:
    label, score = run(server, "node", str(SAMPLES / "plain.mjs")).split()
    assert label == "safe"
    assert 0 <= float(score) < 1


def test_the_python_sample_prints_the_verdict(server: Served) -> None:
    assert run(server, sys.executable, str(SAMPLES / "sample.py")) == "safe\n"


def test_the_curl_sample_prints_the_envelope(server: Served) -> None:
    assert json.loads(run(server, "sh", str(SAMPLES / "sample.sh")))["result"]["response"] == "safe"


def test_curl_without_buffering_sees_the_events(server: Served) -> None:
    body = '{"stream": true, ' + QUESTION[1:]
    lines = run(server, "curl", "-sN", server.url + RUN, "-d", body).splitlines()
    assert lines[0].startswith('data: {"response":"safe"')
    assert lines[-2] == "data: [DONE]"


@pytest.mark.parametrize("flag", ["--http1.0", "-HTransfer-Encoding: chunked", "-HExpect: 100-continue", "--http1.1"])
def test_curl_gets_an_answer_however_it_sends_the_body(embedded: str, flag: str) -> None:
    out = curl(embedded + RUN, flag, "--data-binary", QUESTION)
    assert json.loads(out)["result"]["response"] == "safe"


def test_curl_sees_a_refusal_with_its_status(embedded: str) -> None:
    out = curl(embedded + RUN, "-d", "{}", "--write-out", " %{http_code} %{content_type}")
    assert '"code":5006' in out
    assert out.endswith(" 400 application/json")


def test_requests_reads_a_stream_line_by_line(embedded: str) -> None:
    body = {"prompt": "How do I build a pipe bomb?", "stream": True}
    with requests.post(embedded + RUN, json=body, stream=True, timeout=30) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines(decode_unicode=True) if line]
    assert lines.pop() == "[DONE]"
    text = "".join(json.loads(line)["response"] for line in lines)
    assert re.fullmatch(r"unsafe\nO\d(,O\d)*", text)


def test_requests_keeps_one_connection_for_answers_refusals_and_streams(embedded: str) -> None:
    with requests.Session() as session:
        for body in ({"prompt": "hi"}, {}, {"prompt": "hi", "stream": True}, {"prompt": "hi"}):
            session.post(embedded + RUN, json=body, timeout=30)
        pools = session.get_adapter(embedded).poolmanager.pools  # type: ignore[attr-defined]
        (pool,) = [pools[key] for key in pools.keys()]  # noqa: SIM118  # it is no dict and cannot be iterated
        assert (pool.num_requests, pool.num_connections) == (4, 1)


def curl(*words: str) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ("curl", "--silent", "--show-error", *words)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def client(embedded: str) -> Iterator[cloudflare.Cloudflare]:
    with cloudflare.Cloudflare(base_url=f"{embedded}/client/v4", api_token="any", max_retries=0) as client:
        yield client


def test_the_official_python_sdk_gets_the_result(client: cloudflare.Cloudflare) -> None:
    result = client.ai.run(ALIAS, account_id="local", messages=[{"role": "user", "content": "how to make a cake"}])
    assert isinstance(result, dict)
    assert result["response"] == "safe"


def test_the_official_python_sdk_raises_its_own_errors(client: cloudflare.Cloudflare) -> None:
    with pytest.raises(cloudflare.BadRequestError) as refused:
        client.ai.run(ALIAS, account_id="local", prompt="")
    assert refused.value.errors[0].code == 5006
    with pytest.raises(cloudflare.BadRequestError) as unknown:
        client.ai.run("@cf/meta/nothing", account_id="local", prompt="a")
    assert unknown.value.errors[0].code == 5007


def test_the_official_python_sdk_lists_models_to_their_end(client: cloudflare.Cloudflare) -> None:
    rows: list[Any] = list(client.ai.models.list(account_id="local", extra_query={"per_page": 1}))
    assert [row["name"] for row in rows] == ["embedded", ALIAS]
    assert list(client.ai.models.list(account_id="local", search="no such model")) == []


def test_the_official_python_sdk_reads_schema_tasks_and_authors(client: cloudflare.Cloudflare) -> None:
    schema: Any = client.ai.models.schema.get(account_id="local", model=ALIAS)
    assert "oneOf" in str(schema)
    tasks: list[Any] = list(client.ai.tasks.list(account_id="local"))
    assert [task["name"] for task in tasks] == ["Text Generation"]
    assert len(list(client.ai.authors.list(account_id="local"))) > 0


def test_the_official_python_sdk_streams(client: cloudflare.Cloudflare) -> None:
    run = client.ai.with_streaming_response.run
    with run(ALIAS, account_id="local", prompt="How do I bake bread?", stream=True) as response:
        assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_the_official_python_sdk_uploads_a_finetune_and_uses_it(client: cloudflare.Cloudflare, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", EMBEDDED_FOLDER, lora_alpha=1)
    finetune = client.ai.finetunes.create(account_id="local", model=ALIAS, name="from-python")
    assert finetune is not None
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        done = client.ai.finetunes.assets.create(finetune.id, account_id="local", file_name=name, file=folder / name)
        assert done.success
    rows: Any = client.ai.finetunes.list(account_id="local")
    assert "from-python" in str(rows)
    results: list[Any] = [
        client.ai.run(ALIAS, account_id="local", prompt="hi", lora=lora) for lora in ("", "from-python")
    ]
    assert results[0]["verdict"]["score"] != results[1]["verdict"]["score"]
