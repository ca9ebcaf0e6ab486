"""JSON mode and tools over the wire: values that meet their schema, calls that meet their tool's, and clear refusals."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
from served import Served, served, write_guard_checkpoint
from wire import USER, assert_refused, events

OBJECT = {"type": "json_object"}
CODES = {"enum": ["O1", "O2", "O3"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"flagged": {"type": "boolean"}, "codes": {"type": "array", "items": CODES, "maxItems": 2}},
    "required": ["flagged", "codes"],
    "additionalProperties": False,
}
PARAMETERS = {
    "type": "object",
    "properties": {"code": CODES, "sure": {"type": "boolean"}},
    "required": ["code", "sure"],
}
LEGACY = {"name": "report", "description": "Reports a category", "parameters": PARAMETERS}
OPENAI = {"type": "function", "function": LEGACY}
OTHER = {"type": "function", "function": {"name": "ignore", "description": "", "parameters": {"properties": {}}}}
NAMED = {"type": "function", "function": {"name": "report"}}


def schema_of(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema}


def result_of(response: requests.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


def test_json_object_is_the_verdict_as_an_object(server: Served) -> None:
    result = result_of(server.post({"messages": USER, "response_format": OBJECT}))
    assert result["response"] == {"safe": True, "categories": []}
    assert result["verdict"]["flagged"] is False
    assert result["usage"]["completion_tokens"] == server.guard.count_tokens('{"safe":true,"categories":[]}')
    assert result_of(server.post({"prompt": "hi", "response_format": OBJECT, "temperature": 3}))["response"]["safe"]


def test_json_object_streams_its_text(server: Served) -> None:
    found = list(events(server.post({"messages": USER, "response_format": OBJECT, "stream": True})))
    assert json.loads("".join(event["response"] for event in found[:-1])) == {"safe": True, "categories": []}
    assert found[-1] == "[DONE]"


def test_json_object_of_raw_text_is_any_object(server: Served) -> None:
    body = {"prompt": "x", "raw": True, "response_format": OBJECT, "max_tokens": 60}
    response = server.post(body)
    if response.status_code == 200:
        assert isinstance(response.json()["result"]["response"], dict)
    else:
        assert_refused(response, 400, 5024)


@pytest.mark.parametrize("question", [{"messages": USER}, {"prompt": "hi"}, {"prompt": "hi", "raw": True}], ids=str)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 2, "seed": 3}], ids=str)
def test_json_schema_gives_a_value_that_meets_it(
    server: Served, question: dict[str, Any], sampling: dict[str, Any]
) -> None:
    result = result_of(server.post({**question, **sampling, "response_format": schema_of(SCHEMA)}))
    jsonschema_rs.validate(SCHEMA, result["response"])
    assert ("verdict" in result) == ("raw" not in question)


@pytest.mark.parametrize(
    "schema", [{"enum": ["a b", 5, None, [1], True]}, {"type": "integer", "maximum": 9, "minimum": 3}]
)
def test_a_value_need_not_be_an_object(server: Served, schema: dict[str, Any]) -> None:
    jsonschema_rs.validate(
        schema, result_of(server.post({"prompt": "x", "response_format": schema_of(schema)}))["response"]
    )


def test_a_seed_repeats_a_value_whatever_runs_beside_it(server: Served) -> None:
    body = {"prompt": "x", "temperature": 3, "seed": 5, "response_format": schema_of(SCHEMA)}
    alone = result_of(server.post(body))["response"]
    found: list[Any] = []
    callers = [
        threading.Thread(target=lambda: found.append(result_of(server.post(body))["response"])) for _ in range(4)
    ]
    callers += [threading.Thread(target=server.post, args=({**body, "seed": seed},)) for seed in range(1, 5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [alone] * 4


def test_openais_wrapping_of_a_schema_is_understood(server: Served) -> None:
    wrapped = {"name": "verdict", "strict": True, "schema": SCHEMA}
    jsonschema_rs.validate(
        SCHEMA, result_of(server.post({"prompt": "x", "response_format": schema_of(wrapped)}))["response"]
    )


@pytest.mark.parametrize("question", [{"messages": USER}, {"prompt": "hi"}], ids=str)
def test_a_schema_is_refused_on_a_stream(server: Served, question: dict[str, Any]) -> None:
    response = server.post({**question, "stream": True, "response_format": schema_of(SCHEMA)})
    assert_refused(response, 400, 5023, "JSON Schema mode is not supported with stream mode")


@pytest.mark.parametrize(
    "format_", [OBJECT, schema_of({"const": "a rather long text that needs more tokens than there are"})], ids=str
)
def test_a_schema_that_is_not_met_in_time_is_an_error(server: Served, format_: dict[str, Any]) -> None:
    assert_refused(
        server.post({"prompt": "x", "response_format": format_, "max_tokens": 3}),
        400,
        5024,
        "JSON Mode couldn't be met",
    )


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (None, "must be an object"),
        ("x", "must be an object"),
        ([], "must be an object"),
        ({"type": "secret"}, "names an unknown type"),
        ({"uniqueItems": True}, "not supported: uniqueItems"),
        ({"pattern": "(secret", "type": "string"}, "pattern of the JSON schema is malformed"),
        ({"enum": []}, "no value satisfies the JSON schema"),
        ({"$ref": "https://example.com/secret.json"}, "is not fetched"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_compiled_is_bad_input(server: Served, schema: object, reason: str) -> None:
    response = server.post({"prompt": "x", "response_format": schema_of(schema)})
    assert_refused(response, 400, 5006, reason)
    assert "secret" not in response.text


def test_a_hostile_schema_holds_up_nobody(server: Served) -> None:
    hostile = {"allOf": [{"type": "string", "pattern": f".*a.{{{n}}}$"} for n in range(31)]}
    replies: list[requests.Response] = []
    caller = threading.Thread(
        target=lambda: replies.append(server.post({"prompt": "x", "response_format": schema_of(hostile)}))
    )
    caller.start()
    time.sleep(0.3)
    assert server.post({"prompt": "hi"}).status_code == 200
    assert not replies, "it was to be still compiling"
    caller.join()
    assert_refused(replies[0], 400, 5006, "the JSON schema is too complex")


@pytest.mark.parametrize("tool", [LEGACY, OPENAI], ids=["legacy", "openai"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=str)
def test_a_demanded_call_is_made_and_valid(server: Served, tool: dict[str, Any], choice: object) -> None:
    result = result_of(server.post({"messages": USER, "tools": [tool, OTHER], "tool_choice": choice}))
    assert result["response"] == "safe"
    [call] = result["tool_calls"]
    assert call.keys() == {"name", "arguments"}
    assert call["name"] in ({"report"} if choice == NAMED else {"report", "ignore"})
    jsonschema_rs.validate(PARAMETERS if call["name"] == "report" else {}, call["arguments"])


@pytest.mark.parametrize("choice", [None, "auto", "none"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 2, "max_tokens": 20}], ids=str)
def test_a_guard_that_is_free_answers_with_its_verdict(
    server: Served, choice: object, sampling: dict[str, Any]
) -> None:
    result = result_of(server.post({"messages": USER, "tools": [OPENAI], "tool_choice": choice, **sampling}))
    assert isinstance(result["response"], str)
    for call in result["tool_calls"]:
        jsonschema_rs.validate(PARAMETERS, call["arguments"])


def test_without_tools_there_are_no_tool_calls_and_a_choice_means_nothing(server: Served) -> None:
    for extra in ({}, {"tools": []}, {"tools": [{}]}, {"tool_choice": "required"}, {"tools": [], "tool_choice": 5}):
        assert "tool_calls" not in result_of(server.post({"messages": USER, **extra}))


@pytest.mark.parametrize("choice", ["sometimes", 5, {"function": {"name": "other"}}], ids=str)
def test_a_choice_that_means_nothing_is_bad_input(server: Served, choice: object) -> None:
    assert_refused(server.post({"messages": USER, "tools": [OPENAI], "tool_choice": choice}), 400, 5006, "tool_choice")


def test_a_call_is_streamed_in_parts(server: Served) -> None:
    body = {"messages": USER, "tools": [OPENAI], "tool_choice": NAMED, "stream": True}
    found = list(events(server.post(body)))
    assert found[-1] == "[DONE]"
    assert found[-2].keys() == {"response", "usage", "verdict"}
    assert found[-3] == {"response": "", "finish_reason": "tool_calls"}
    assert "".join(event.get("response", "") for event in found[:-1]) == "safe"
    parts = [part for event in found[:-2] for part in event.get("tool_calls", ())]
    first, *middle, last = parts
    assert (first["index"], first["type"], first["function"]["name"]) == (0, "function", "report")
    assert first["id"].startswith("call_")
    assert (last["id"], last["type"], last["function"]["name"]) == (None, None, None)
    arguments = json.loads("".join(part["function"]["arguments"] for part in middle))
    jsonschema_rs.validate(PARAMETERS, arguments)
    assert result_of(server.post({**body, "stream": False}))["tool_calls"][0]["arguments"] == arguments


def test_every_event_has_tool_calls_where_tools_were_offered(server: Served) -> None:
    found = list(events(server.post({"messages": USER, "tools": [OPENAI], "stream": True})))
    assert all(event["tool_calls"] == [] for event in found[:-1])


def test_a_call_cut_short_is_an_error_before_and_after_the_stream_has_begun(server: Served) -> None:
    body = {"messages": USER, "tools": [OPENAI], "tool_choice": "required", "max_tokens": 3}
    assert_refused(server.post(body), 400, 5024)
    response = server.post({**body, "stream": True})
    assert response.status_code == 200
    *_, last = events(response)
    assert last["errors"][0]["code"] == 5024
    assert "[DONE]" not in response.text


def test_a_functions_code_is_neither_shown_nor_run(server: Served) -> None:
    bodies = [
        {"messages": USER, "functions": [{"name": "add", "code": code}], "tool_choice": "required", "max_tokens": 30}
        for code in ("", "while (true) {}" * 1000)
    ]
    replies = [server.post(body) for body in bodies]
    assert replies[0].status_code == replies[1].status_code
    assert replies[0].json()["result"] == replies[1].json()["result"]
    free = result_of(server.post({"messages": USER, "functions": [{"name": "add", "code": "throw 1"}]}))
    assert (free["response"], free["tool_calls"]) == ("safe", [])


def test_a_tool_that_cannot_be_called_matters_only_where_a_call_is_demanded(server: Served) -> None:
    tool = {"name": "a", "parameters": {"type": "object", "properties": {"x": {"uniqueItems": True}}}}
    body = {"messages": USER, "tools": [tool], "temperature": 1, "max_tokens": 4}
    assert result_of(server.post(body))["tool_calls"] == []
    assert_refused(server.post({**body, "tool_choice": "required"}), 400, 5006, "uniqueItems")


def test_tool_calls_and_results_in_messages_are_judged(server: Served) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "cake"}'}}
    asked = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    answered = [*asked, {"role": "tool", "content": "flour and sugar", "name": "search", "tool_call_id": "1"}]
    results = [result_of(server.post({"messages": messages})) for messages in (USER, asked, answered)]
    assert [result["verdict"]["role"] for result in results] == ["user", "assistant", "assistant"]
    num_tokens = [result["usage"]["prompt_tokens"] for result in results]
    assert num_tokens == sorted(set(num_tokens)), "each adds to what is judged"


def test_raw_messages_are_their_contents_and_no_more(server: Served) -> None:
    body = {
        "messages": [{"role": "system", "content": "to make"}, {"role": "user", "content": "a cake"}],
        "max_tokens": 3,
    }
    raw = result_of(server.post({**body, "raw": True}))
    assert (
        raw["usage"]["prompt_tokens"]
        == result_of(server.post({"prompt": "to make\na cake", "raw": True, "max_tokens": 3}))["usage"]["prompt_tokens"]
    )
    assert "verdict" not in raw
    assert "verdict" in result_of(server.post({**body, "raw": "true"})), "only true is true"
    for messages in ([], ["x"], [{"role": "user", "content": "a"}, "b"]):
        assert server.post({"messages": messages, "raw": True}).status_code == 400


def test_a_slow_prefill_gets_comments_and_its_errors_become_events(tmp_path: Path) -> None:
    with served(write_guard_checkpoint(tmp_path / "guard"), threshold=1.0, keep_alive_s=0.001) as server:
        long = {"prompt": "how to make a cake " * 150, "stream": True}
        response = server.post({**long, "raw": True, "max_tokens": 2})
        assert response.text.startswith(": keep-alive\n\n")
        assert response.text.endswith("data: [DONE]\n\n")
        response = server.post({**long, "response_format": OBJECT, "max_tokens": 1})
        assert response.status_code == 200
        assert '"code":5024' in response.text.split("\n\n")[-2]
        assert "[DONE]" not in response.text
