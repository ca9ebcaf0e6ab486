"""Hundreds of bodies made from the input schema: valid ones are answered as the output schema says, others refused."""

import json
from functools import cache
from typing import Any

import jsonschema_rs
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served
from wire import events

from guardhouse.server.workers_ai.schema import GENERATION_PROPERTIES

MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
SAID = TEXT.filter(lambda text: text.strip())
NAMES = st.text("abcdefgh_", min_size=1, max_size=8)
PARAMETERS = st.sampled_from(
    [
        {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
        {"type": "object", "properties": {"code": {"enum": ["O1", "O2"]}}},
        {"properties": {}},
    ]
)
LEGACY_TOOLS = st.fixed_dictionaries({"name": NAMES, "description": TEXT, "parameters": PARAMETERS})
TOOLS = LEGACY_TOOLS | LEGACY_TOOLS.map(lambda tool: {"type": "function", "function": tool})
FORMATS = st.sampled_from(
    [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "json_schema": {
                "type": "object",
                "properties": {"a": {"type": "boolean"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
        {"type": "json_schema", "json_schema": {"enum": ["safe", "unsafe"]}},
        {},
    ]
)


def values(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a field of the schema allows."""
    low, high = field.get("minimum"), field.get("maximum")
    match field["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(low, high)
        case "number":
            return st.floats(low, high, allow_nan=False) | st.integers(low, high)
    raise AssertionError(field)


def wrong_values(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What it does not."""
    if field["type"] == "object":
        return st.fixed_dictionaries({"type": st.text(max_size=5) | st.integers() | st.none()})
    wrong: st.SearchStrategy[Any] = st.none() | TEXT | st.lists(st.integers(), max_size=2) | st.just({})
    if field["type"] != "boolean":
        wrong |= st.booleans()
    if "minimum" in field:
        wrong |= st.floats(max_value=field["minimum"], exclude_max=True, allow_infinity=False)
        wrong |= st.floats(min_value=field["maximum"], exclude_min=True, allow_infinity=False)
    return wrong


PLAIN = {
    name: values(field)
    for name, field in GENERATION_PROPERTIES.items()
    if name not in {"max_tokens", "response_format"}
}
OPTIONS = st.fixed_dictionaries({"max_tokens": st.integers(1, 40)}, optional=PLAIN)
PROMPTS = st.fixed_dictionaries({"prompt": SAID}, optional={"raw": st.booleans()})
TURNS = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": TEXT})
LAST_TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"]), "content": SAID})
CONVERSATIONS = st.fixed_dictionaries(
    {"messages": st.tuples(st.lists(TURNS, max_size=3), LAST_TURN).map(lambda turns: [*turns[0], turns[1]])},
    optional={
        "tools": st.lists(TOOLS, max_size=2),
        "functions": st.lists(st.fixed_dictionaries({"name": NAMES, "code": TEXT}), max_size=2),
        "tool_choice": st.sampled_from([None, "auto", "none"]),
        "unknown": st.integers(),
    },
)
BODIES = st.tuples(PROMPTS | CONVERSATIONS, OPTIONS).map(lambda parts: {**parts[0], **parts[1]})


@cache
def output_schema(server: Served) -> dict[str, Any]:
    document = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    run = document["paths"]["/client/v4/accounts/{account}/ai/run/{model}"]["post"]
    return {**run["responses"]["200"]["content"]["application/json"]["schema"], "components": document["components"]}


def assert_is_stream(response: requests.Response) -> None:
    *parts, last, done = events(response)
    assert done == "[DONE]"
    assert last["usage"]["total_tokens"] > 0
    assert all(isinstance(part["response"], str) for part in parts)


@MANY
@given(body=BODIES)
def test_a_valid_body_is_answered_as_the_output_schema_says(server: Served, body: dict[str, Any]) -> None:
    response = server.post(body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        assert_is_stream(response)
        return
    jsonschema_rs.validate(output_schema(server), response.json())
    result = response.json()["result"]
    assert isinstance(result["response"], str)
    assert result["response"] == result["response"].strip()
    assert result["usage"]["completion_tokens"] <= max(body["max_tokens"], 1)


@MANY
@given(
    body=BODIES,
    format_=FORMATS,
    choice=st.sampled_from([None, "required"]),
)
def test_a_demand_is_met_or_refused_by_name(
    server: Served, body: dict[str, Any], format_: dict[str, Any], choice: str | None
) -> None:
    response = server.post({**body, "max_tokens": 60, "response_format": format_, "tool_choice": choice})
    if response.status_code != 200:  # too many tokens for what is left of the answer, or a schema on a stream
        assert response.json()["errors"][0]["code"] in {5023, 5024}, response.text
    elif not body.get("stream"):
        result = response.json()["result"]
        if schema := format_.get("json_schema"):
            jsonschema_rs.validate(schema, result["response"])
        elif choice and body.get("tools"):
            assert len(result.get("tool_calls", [])) == (0 if "type" in format_ else 1)


@MANY
@given(body=BODIES, data=st.data())
def test_a_body_with_one_wrong_field_is_refused(server: Served, body: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GENERATION_PROPERTIES)))
    body[name] = data.draw(wrong_values(GENERATION_PROPERTIES[name]))
    response = server.post(body)
    assert response.status_code == 400, (response.status_code, response.text)
    assert response.json()["success"] is False
    assert response.json()["errors"][0]["code"] == 5006
    assert response.json()["result"] == {}


@MANY
@given(junk=st.binary(max_size=200) | st.text(max_size=100).map(json.dumps).map(str.encode))
def test_junk_is_refused_and_the_server_stays_well(server: Served, junk: bytes) -> None:
    response = server.post(data=junk)
    assert response.status_code == 400, response.text
    assert response.json()["success"] is False
    assert requests.get(f"{server.url}/health", timeout=10).json()["status"] == "ok"
