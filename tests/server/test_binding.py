"""The routes behind `env.AI`, as workerd's wrapper, miniflare and older wranglers speak to them."""

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import requests
from served import ALIAS, Served, served, wait_for, write_guard_checkpoint
from starlette.datastructures import Headers

from guardhouse.server.workers_ai.unwrap import unwrapped

INPUTS = {"messages": [{"role": "user", "content": "how to make a cake"}]}
RUN = "/run?version=3"
OLD_SDK = {"content-encoding": "application/json", "cf-consn-sdk-version": "1.1.0"}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def run(server: Served, inputs: Any = INPUTS, path: str = RUN, model: str = ALIAS, **headers: str) -> requests.Response:
    """What `env.AI.run(model, inputs)` sends."""
    body = json.dumps({"inputs": inputs, "options": {}})
    headers = {"content-type": "application/json", "cf-consn-model-id": model, **headers}
    return requests.post(server.url + path, data=body, headers=headers, timeout=30)


@pytest.mark.parametrize("path", [RUN, "/ai-gateway/run?version=3", "/run?version=2", "/run"])
def test_a_result_is_bare_and_its_content_type_exact(server: Served, path: str) -> None:
    response = run(server, path=path)
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(UUID, response.headers["cf-ai-req-id"])
    assert response.json()["response"] == "safe"
    assert response.json() == server.post(INPUTS).json()["result"] | {"verdict": response.json()["verdict"]}


def test_a_stream_is_the_same_as_everywhere(server: Served) -> None:
    response = run(server, {**INPUTS, "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.startswith('data: {"response":"safe","p":')
    assert response.text.endswith("data: [DONE]\n\n")


def test_a_prefix_before_the_model_is_dropped(server: Served) -> None:
    assert run(server, model=f"staging:{ALIAS}").json()["response"] == "safe"


def test_an_error_is_flat_and_its_description_bare(server: Served) -> None:
    response = run(server, model="@cf/x/y")
    request_id = response.headers["cf-ai-req-id"]
    assert response.status_code == 400
    assert response.json() == {
        "name": "AiError",
        "internalCode": 5007,
        "httpCode": 400,
        "message": f"AiError: No such model: No such model @cf/x/y or task ({request_id})",
        "description": "No such model @cf/x/y or task",
        "requestId": request_id,
    }


def test_version_2_reads_errors_as_text(server: Served) -> None:
    response = run(server, path="/run?version=2", model="@cf/x/y")
    assert (response.status_code, response.text) == (400, "5007: No such model @cf/x/y or task")
    assert response.headers["content-type"] == "text/plain"


def test_the_oldest_callers_get_gzip_bytes_that_no_header_announces(server: Served) -> None:
    response = run(server, path="/run?version=2", **OLD_SDK)
    assert response.headers["content-type"] == "application/json"
    assert "content-encoding" not in response.headers
    assert json.loads(gzip.decompress(response.content))["response"] == "safe"
    streamed = run(server, {**INPUTS, "stream": True}, path="/run?version=2", **OLD_SDK)
    assert streamed.text.endswith("data: [DONE]\n\n")
    with pytest.raises(zlib.error):
        zlib.decompress(run(server, path=RUN, **OLD_SDK).content, wbits=31)


def test_a_version_before_2_is_refused(server: Served) -> None:
    response = run(server, path="/run?version=1")
    assert (response.status_code, response.json()["internalCode"]) == (405, 5019)


@pytest.mark.parametrize(
    ("body", "headers", "missing"),
    [
        (b"", {"cf-consn-model-id": ALIAS}, "body"),
        (b'{"options": {}}', {"cf-consn-model-id": ALIAS}, "inputs"),
        (b"[]", {"cf-consn-model-id": ALIAS}, "inputs"),
        (json.dumps({"inputs": INPUTS}).encode(), {}, "cf-consn-model-id"),
    ],
)
def test_what_is_missing_is_named(server: Served, body: bytes, headers: dict[str, str], missing: str) -> None:
    response = requests.post(server.url + RUN, data=body, headers=headers, timeout=10)
    assert (response.status_code, response.json()["internalCode"]) == (400, 3003)
    assert response.json()["description"] == f"Request is missing headers or body: {missing}"


@pytest.mark.parametrize("inputs", [None, 5, "text", {}, {"prompt": ""}, {"messages": [{"role": "user"}]}])
def test_inputs_are_validated_as_on_the_rest_route(server: Served, inputs: object) -> None:
    rest = server.post(data=json.dumps(inputs)).json()["errors"][0]["message"]
    found = run(server, inputs).json()
    assert found["internalCode"] == 5006
    assert f"AiError: Bad input: {found['description']} (" in rest


def test_a_stream_among_the_inputs_is_ignored_as_any_unknown_key(server: Served) -> None:
    query = {"version": "3", "userInputs": json.dumps(INPUTS)}
    headers = {"content-type": "audio/wav", "cf-consn-model-id": ALIAS}
    response = requests.post(server.url + "/run", params=query, data=b"RIFF", headers=headers, timeout=10)
    assert response.json()["response"] == "safe"


def test_a_batch_is_queued_by_the_third_argument_and_polled_without_it(server: Served) -> None:
    inputs = {"requests": [{"prompt": "a cake", "external_reference": "one"}]}
    body = {"inputs": inputs, "options": {"queueRequest": True}}
    headers = {"cf-consn-model-id": ALIAS}
    queued = requests.post(server.url + RUN, json=body, headers=headers, timeout=10)
    assert queued.json()["status"] == "queued"
    assert queued.headers["content-type"] == "application/json"
    poll = {"request_id": queued.json()["request_id"]}
    assert wait_for(lambda: "responses" in run(server, poll).json())
    (answer,) = run(server, poll).json()["responses"]
    assert (answer["external_reference"], answer["success"]) == ("one", True)


def test_models_answers_the_binding_in_an_envelope(server: Served) -> None:
    url = server.url + "/ai-api/models/search"
    rows = requests.get(url, params={"search": "llamaguard"}, timeout=10).json()["result"]
    assert [row["name"] for row in rows] == [ALIAS]
    refused = requests.get(url, params={"page": 0}, timeout=10)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["message"]


def mf(server: Served, method: str, url: str, body: object = None, path: str = "/", **headers: str) -> Any:
    """What miniflare's remote proxy makes of a request to `url`."""
    wrapped = {f"MF-Header-{name}": value for name, value in headers.items()}
    data = None if body is None else json.dumps(body)
    wrapped |= {"MF-URL": url, "MF-Binding": "AI"}
    return requests.request(method, server.url + path, data=data, headers=wrapped, timeout=10)


@pytest.mark.parametrize("path", ["/", "/anything", "/health"])
def test_miniflares_proxy_form_is_unwrapped_at_any_path(server: Served, path: str) -> None:
    headers = {"cf-consn-model-id": ALIAS, "content-type": "application/json", "content-length": "7"}
    url = "https://workers-binding.ai/run?version=3"
    assert mf(server, "POST", url, {"inputs": INPUTS}, path, **headers).json()["response"] == "safe"
    models = mf(server, "GET", "https://workers-binding.ai/ai-api/models/search?per_page=1", path=path)
    assert len(models.json()["result"]) == 1


@pytest.mark.parametrize("url", ["", "http://[", "https://x/none", "//", "\xff", "https://x/%ff%00"])
def test_a_forwarded_url_that_leads_nowhere_is_refused(server: Served, url: str) -> None:
    response = mf(server, "POST", url)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 7000)


@pytest.mark.parametrize("account", ["accounts/local/", ""])
def test_older_wranglers_proxy_route_is_unwrapped(server: Served, account: str) -> None:
    path = f"/client/v4/{account}ai/run/proxy"
    assert run(server, path=path, **{"X-Forwarded": "https://workers-binding.ai/run?version=3"}).status_code == 200
    errors = run(server, path=path, model="@cf/x/y")  # without X-Forwarded: a run of version 2
    assert errors.text == "5007: No such model @cf/x/y or task"
    models = {"X-Forwarded": "https://workers-binding.ai/ai-api/models/search?search=llamaguard"}
    found = requests.get(server.url + path, headers=models, timeout=10).json()["result"]
    assert [row["name"] for row in found] == [ALIAS]


def test_a_forwarded_request_needs_a_key_of_its_own_or_of_its_bearer(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "guard")
    url = "https://workers-binding.ai/run?version=3"
    with served(folder, api_keys=("sesame",), threshold=1.0) as server:
        assert run(server).json()["errors"][0]["code"] == 10000
        assert run(server, authorization="Bearer sesame").status_code == 200
        model = {"cf-consn-model-id": ALIAS}
        assert mf(server, "POST", url, {"inputs": INPUTS}, "/health", **model).status_code == 401
        assert mf(server, "POST", url, {"inputs": INPUTS}, authorization="Bearer sesame", **model).status_code == 200


def test_an_unwrapped_request_keeps_the_outer_framing_and_key() -> None:
    outer = [(b"host", b"a"), (b"content-length", b"9"), (b"authorization", b"Bearer k"), (b"mf-binding", b"AI")]
    inner = [(b"mf-header-host", b"b"), (b"mf-header-content-length", b"5"), (b"mf-header-accept", b"c")]
    scope = unwrapped({"type": "http", "headers": outer + inner}, "https://x/run%20?version=3")
    assert dict(Headers(scope=scope)) == {
        "host": "a",
        "content-length": "9",
        "authorization": "Bearer k",
        "accept": "c",
    }
    assert (scope["path"], scope["query_string"]) == ("/run ", b"version=3")
