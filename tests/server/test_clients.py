"""Real clients, unchanged but for the base URL: curl, the official Python SDK, the samples of the documentation."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudflare
import pytest
from served import ALIAS, RUN, Served

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


@pytest.fixture
def client(server: Served) -> Iterator[cloudflare.Cloudflare]:
    with cloudflare.Cloudflare(base_url=f"{server.url}/client/v4", api_token="any", max_retries=0) as client:
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
