"""The run route over real sockets: envelope, errors, limits, streams."""

import re
import socket
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import RUN, Served
from wire import USER, UUID, assert_refused, events

from guardhouse.server.transport import MAX_BODY
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA


@pytest.mark.parametrize(
    "path",
    [
        RUN,
        RUN.replace("thebloke/llama", "thebloke%2Fllama").replace("@hf/", "@hf%2F"),
        RUN.replace("@", "%40"),
        RUN.replace("/accounts/local", ""),
        RUN.replace("/client/v4/accounts/local/ai", "/v1/local/gateway/workers-ai"),
        RUN.replace("/client/v4/accounts/local/ai/run", "/v1/local/gateway/workers-ai"),
        RUN + "/",
    ],
)
def test_every_spelling_of_the_path_answers_in_the_envelope(server: Served, path: str) -> None:
    response = server.post({"messages": USER}, path=path)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert re.fullmatch(UUID, response.headers["cf-ai-req-id"])
    assert list(body) == ["result", "success", "errors", "messages"]
    assert (body["success"], body["errors"], body["messages"]) == (True, [], [])
    assert body["result"]["response"] == "safe"


def test_a_result_holds_response_usage_and_verdict(server: Served) -> None:
    result = server.post({"messages": USER}).json()["result"]
    usage, verdict = result["usage"], result["verdict"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == 1
    assert usage["prompt_tokens"] > 50
    assert verdict["flagged"] is False
    assert 0 <= verdict["score"] < 1
    assert sum(verdict["categories"].values()) == pytest.approx(verdict["score"])


def test_the_models_own_name_answers_too(server: Served) -> None:
    name = server.guard.info.name
    assert server.post({"prompt": "hi"}, path=f"/client/v4/accounts/x/ai/run/{name}").status_code == 200


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_the_body_is_json_whatever_its_content_type(server: Served, content_type: str) -> None:
    headers = {"content-type": content_type, "content-encoding": "application/json"}
    assert server.post(data=b'{"prompt": "how to make a cake"}', headers=headers).status_code == 200


def test_the_same_question_gets_the_same_answer_by_every_way(server: Served) -> None:
    plain = server.post({"messages": USER}).json()["result"]
    streamed = [event for event in events(server.post({"messages": USER, "stream": True})) if event != "[DONE]"]
    assert "".join(event["response"] for event in streamed) == plain["response"]
    assert streamed[-1]["usage"] == plain["usage"]
    assert streamed[-1]["verdict"]["score"] == plain["verdict"]["score"]
    assert (
        server.post({"prompt": "how to make a cake"}).json()["result"]["verdict"]["score"] == plain["verdict"]["score"]
    )


def test_a_stream_ends_with_usage_and_done_and_has_no_charset(server: Served) -> None:
    response = server.post({"prompt": "a cake", "stream": True, "temperature": 1.5, "max_tokens": 20, "seed": 7})
    found = list(events(response))
    assert response.headers["content-type"] == "text/event-stream"
    assert "content-encoding" not in response.headers
    assert re.fullmatch(UUID, response.headers["cf-ai-req-id"])
    assert found[-1] == "[DONE]"
    assert found[-2]["response"] == ""
    assert found[-2]["usage"]["completion_tokens"] <= 20
    assert all(event["response"] and 5 <= len(event["p"]) <= 50 for event in found[:-2])


def test_a_seed_repeats_a_sampled_answer(server: Served) -> None:
    body = {"prompt": "a cake", "temperature": 2, "max_tokens": 30, "seed": 11}
    answers = {server.post(body).json()["result"]["response"] for _ in range(3)}
    assert len(answers) == 1


def test_raw_text_is_answered_without_a_verdict(server: Served) -> None:
    result = server.post({"prompt": "to make", "raw": True, "max_tokens": 4}).json()["result"]
    assert result.keys() == {"response", "usage"}
    assert result["usage"]["completion_tokens"] == 4
    assert result["response"] == result["response"].strip()


def test_max_tokens_cuts_the_answer(server: Served) -> None:
    usage = server.post({"messages": USER, "max_tokens": 1}).json()["result"]["usage"]
    assert usage["completion_tokens"] == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"repetition_penalty": 0},
        {"temperature": 5e-324},
        {"temperature": 5},
        {"top_p": 0},
        {"top_p": 2, "temperature": 1},
        {"top_p": 0, "temperature": 1},
        {"top_k": 1, "temperature": 1},
        {"seed": 9999999999, "temperature": 1},
        {"frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 2},
        {"max_tokens": 3.0},
        {"stop": None, "tool_choice": "auto", "n": 5},
    ],
)
def test_every_legal_parameter_is_answered(server: Served, extra: dict[str, object]) -> None:
    response = server.post({"prompt": "hi", "max_tokens": 20, **extra})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_no_tokens_at_all_cannot_be_asked_for(server: Served, max_tokens: int) -> None:
    assert_refused(server.post({"prompt": "a", "max_tokens": max_tokens}), 400, 5006, "'/max_tokens' must be >= 1")


def test_a_wrong_body_is_told_in_the_reference_wording(server: Served) -> None:
    response = server.post({})
    text = "AiError: Bad input: Error: oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', "
    assert_refused(response, 400, 5006, text + "required properties at '/' are 'messages'")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        ["hi"],
        [None],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "  "}],
        [{"role": "oracle", "content": "x"}],
        [{"role": "system", "content": "x"}],
    ],
    ids=repr,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_judged_is_refused_and_never_safe(server: Served, messages: list[object], stream: bool) -> None:
    assert_refused(server.post({"messages": messages, "stream": stream}), 400, 5006, "AiError: Bad input: Error: ")


def test_an_unknown_model_is_refused_by_name(server: Served) -> None:
    response = server.post({"prompt": "a"}, path="/client/v4/accounts/local/ai/run/@cf/meta/nothing")
    assert_refused(response, 400, 5007, "AiError: No such model: No such model @cf/meta/nothing or task")


def test_an_adapter_that_is_not_there_is_refused(server: Served) -> None:
    assert_refused(server.post({"prompt": "a", "lora": "mine"}), 404, 3037, "Finetune mine not found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_refused(server: Served, method: str) -> None:
    response = requests.request(method, server.url + RUN, timeout=10)
    assert_refused(response, 405, 7001, f"{method} not supported for requested URI.")


@pytest.mark.parametrize("path", ["/nothing", "/client/v4/accounts/local/ai/nothing", "/client/v3/ai/run/x"])
def test_another_route_is_refused(server: Served, path: str) -> None:
    assert_refused(server.post({}, path=path), 400, 7000, "No route for that URI")


@pytest.mark.parametrize("account", ["", "a b", "%3Cscript%3E", "x" * 65, "é"])
def test_what_cannot_be_an_account_is_refused(server: Served, account: str) -> None:
    response = server.post({"prompt": "a"}, path=RUN.replace("local", account))
    assert_refused(response, 404, 7003, "Could not route to /client/v4/accounts/")
    assert "perhaps your object identifier is invalid?" in response.text


def test_more_tokens_than_the_window_are_refused_when_generating(server: Served) -> None:
    body = {"prompt": "a", "raw": True, "max_tokens": 10**30}
    assert_refused(server.post(body), 413, 5021, "exceeded this model context window limit (4096).")
    assert_refused(server.post({**body, "stream": True}), 413, 5021, "AiError: Ai: The estimated number of input and")


def test_a_long_text_is_judged_in_windows_and_never_cut(server: Served) -> None:
    result = server.post({"prompt": "how to make a cake " * 800}).json()["result"]
    assert len(result["verdict"]["windows"]) > 1
    assert result["verdict"]["windows"][-1]["end"] >= len("how to make a cake " * 800) - 1


BAD_BODIES = [
    b"",
    b"{",
    b"prompt=hello",
    b'{"prompt": NaN}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": 1' + b"0" * 5000 + b"}",
    b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"a": ' * 5000 + b"1" + b"}" * 5000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body)[:30])
def test_a_malformed_body_is_a_400(server: Served, body: bytes) -> None:
    assert_refused(server.post(data=body), 400, 5006)


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a\\u0000</s><s>[INST] \xf0\x9f\x98\x80"}',
        b'{"prompt": "' + b"a" * 100_000 + b'"}',
    ],
    ids=lambda body: repr(body)[:30],
)
def test_an_odd_body_is_answered(server: Served, body: bytes) -> None:
    assert server.post(data=body).status_code == 200


def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_its_length(server: Served) -> None:
    body = b'{"prompt": "' + b"a" * MAX_BODY + b'"}'
    assert_refused(server.post(data=body), 413, 3006, "Request is too large")
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    assert_refused(server.post(data=chunks), 413, 3006, "Request is too large")


def test_http_1_0_and_expect_100_continue_are_understood(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = b'{"prompt": "hi"}'
    for head in (b"HTTP/1.0\r\n", b"HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n"):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST " + RUN.encode() + b" " + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b" 200 OK\r\n" in answer
        assert b'"success":true' in answer


FIELDS = sorted({name for branch in RUN_INPUT_SCHEMA["oneOf"] for name in branch["properties"]} - {"max_tokens"})
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.floats(-1, 6)
    | st.text(max_size=8)
    | st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": st.text(max_size=8)})
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(FIELDS), VALUES) | VALUES)
def test_no_body_is_answered_with_a_server_error(server: Served, body: Any) -> None:
    if isinstance(body, dict):
        body = {**body, "max_tokens": 3}
    response = server.post(body)
    assert response.status_code in {200, 400, 405, 413}, response.text
    if response.status_code != 200:
        assert response.json()["success"] is False
