"""POST /v1/check: one, several, and a stream of many."""

import json
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served

PATH = "/v1/check"
MESSAGES = [{"role": "user", "content": "how to make a bomb"}, {"role": "assistant", "content": "a cake"}]
POLICY = "O1: Cakes.\nShould not\n- Make a cake.\nO2: Bombs."


def check(server: Served, **body: Any) -> Any:
    response = server.post(body, path=PATH)
    assert response.status_code == 200, response.text
    return response.json()


def lines(response: requests.Response) -> dict[int, Any]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    parsed = [json.loads(line) for line in response.text.splitlines()]
    return {line["index"]: line for line in parsed}


def test_a_text_gets_its_whole_verdict(server: Served) -> None:
    verdict = check(server, text="how to make a cake")
    direct = server.guard.check("how to make a cake", all_categories=True)
    assert verdict["score"] == direct.score
    assert verdict["mass"] == direct.mass
    assert verdict["categories"] == direct.categories
    assert verdict["category_names"] == {"O1": "Violence", "O2": "Theft", "O3": "Poison"}
    assert verdict["windows"] == [{"start": 0, "end": 18, "score": direct.score}]
    assert (verdict["flagged"], verdict["text"], verdict["policy"], verdict["role"]) == (
        False,
        "safe",
        "default",
        "user",
    )


def test_messages_are_judged_at_their_last_turn(server: Served) -> None:
    assert check(server, messages=MESSAGES)["role"] == "assistant"
    assert check(server, text="a cake", role="assistant")["role"] == "assistant"


def test_threshold_and_policy_hold_for_one_call(server: Served) -> None:
    flagged = check(server, text="a cake", threshold=0, policy=POLICY)
    assert flagged["flagged"] is True
    assert set(flagged["codes"]) <= {"O1", "O2"}
    assert flagged["category_names"] == {"O1": "Cakes", "O2": "Bombs"}
    assert check(server, text="a cake")["flagged"] is False


def test_several_inputs_keep_their_order_and_their_own_options(server: Served) -> None:
    inputs = ["a cake", {"text": "a bomb", "threshold": 0.0}, {"messages": MESSAGES}]
    results = check(server, inputs=inputs, threshold=1)["results"]
    assert [result["threshold"] for result in results] == [1, 0, 1]
    assert [result["role"] for result in results] == ["user", "user", "assistant"]
    assert results[0]["score"] == check(server, text="a cake")["score"]


def test_a_stream_tells_each_verdict_and_each_error_by_its_index(server: Served) -> None:
    inputs: list[Any] = ["a cake", "", {"messages": [{"role": "oracle", "content": "x"}]}, "a bomb"]
    found = lines(server.post({"inputs": inputs, "stream": True}, path=PATH))
    assert found.keys() == {0, 1, 2, 3}
    assert "verdict" in found[0]
    assert "verdict" in found[3]
    assert found[1]["error"]["message"] == "the judged turn is empty"
    assert found[2]["error"]["type"] == "invalid_request_error"


def test_a_body_of_ndjson_is_a_stream(server: Served) -> None:
    body = b'"a cake"\n\n{"text": "a bomb", "threshold": 0}\nnonsense\n'
    found = lines(server.post(path=PATH, data=body, headers={"content-type": "application/x-ndjson"}))
    assert found[0]["verdict"]["flagged"] is False
    assert found[1]["verdict"]["flagged"] is True
    assert "not valid JSON" in found[2]["error"]["message"]


def test_more_than_are_in_flight_at_once_are_all_judged(server: Served) -> None:
    texts = [f"a cake {number}" for number in range(100)]
    found = lines(server.post({"inputs": texts, "stream": True}, path=PATH))
    assert found.keys() == set(range(100))
    assert all("verdict" in line for line in found.values())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "messages": MESSAGES},
        {"text": "a", "inputs": ["a"]},
        {"inputs": []},
        {"inputs": [""]},
        {"messages": MESSAGES, "role": "user"},
        {"text": "a", "role": "tool"},
        {"text": "a", "treshold": 0.1},
        {"text": ["a"]},
        {"messages": []},
        {"messages": ["a"]},
        {"text": "a", "threshold": "high"},
        {"inputs": [{"inputs": ["a"]}]},
    ],
    ids=repr,
)
def test_what_is_not_meant_is_refused(server: Served, body: Any) -> None:
    response = server.post(body, path=PATH)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_an_unknown_field_is_named(server: Served) -> None:
    message = server.post({"text": "a", "treshold": 0.1}, path=PATH).json()["error"]["message"]
    assert message == "unknown field treshold"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["text", "messages", "inputs", "role", "policy", "threshold", "stream", "input", "model"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(FIELDS, JSON, max_size=4))
@pytest.mark.parametrize("path", [PATH, "/v1/moderations", "/tokenize", "/v1/score"])
def test_no_body_at_all_makes_the_server_fail(server: Served, path: str, body: dict[str, Any]) -> None:
    assert server.post(body, path=path).status_code in {200, 400, 404}
