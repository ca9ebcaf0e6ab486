"""The run route's input check, against texts that the reference service's validator produced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.errors import InputError
from guardhouse.server.validate import decode_json, validate
from guardhouse.server.workers_ai.inference import SHORTCUT, parse_input
from guardhouse.server.workers_ai.schema import MAX_TEXT, RUN_INPUT_SCHEMA

NO_PROMPT = "required properties at '/' are 'prompt'"
NO_MESSAGES = "required properties at '/' are 'messages'"
TURN = {"role": "user", "content": "x"}


def none_match(*problems: str) -> str:
    return f"oneOf at '/' not met, 0 matches: {', '.join(problems)}"


def type_mismatch(path: str, wanted: str, *found: str) -> str:
    return f"Type mismatch of '{path}', '{wanted}' not in {','.join(repr(name) for name in found)}"


def complaint(check: Callable[[], object]) -> str | None:
    try:
        check()
    except InputError as error:
        return str(error)
    return None


def refusal(body: object) -> str:
    with pytest.raises(InputError) as error:
        validate(RUN_INPUT_SCHEMA, body)
    return str(error.value)


NO_OBJECTS: tuple[Any, ...] = ({}, "x", None, 5, True, [])
NO_LISTS: tuple[Any, ...] = ({}, None, 5, True)
REFUSED: list[tuple[Any, str]] = [
    *((body, none_match(NO_PROMPT, NO_MESSAGES)) for body in NO_OBJECTS),
    ({"prompt": "a", "messages": [TURN]}, "oneOf at '/' not met, 2 matches"),
    ({"prompt": "a", "messages": []}, "oneOf at '/' not met, 2 matches"),
    ({"prompt": ""}, none_match("Length of '/prompt' must be >= 1 not met", NO_MESSAGES)),
    ({"prompt": "a" * 131073}, none_match("Length of '/prompt' must be <= 131072", NO_MESSAGES)),
    ({"prompt": "😀" * 65537}, none_match("Length of '/prompt' must be <= 131072", NO_MESSAGES)),
    ({"prompt": 5}, none_match(type_mismatch("/prompt", "string", "number", "integer"), NO_MESSAGES)),
    ({"prompt": None}, none_match(type_mismatch("/prompt", "string", "null"), NO_MESSAGES)),
    ({"prompt": True}, none_match(type_mismatch("/prompt", "string", "boolean"), NO_MESSAGES)),
    ({"prompt": {}}, none_match(type_mismatch("/prompt", "string", "object"), NO_MESSAGES)),
    ({"prompt": ["a"]}, none_match(type_mismatch("/prompt", "string", "array", "binary"), NO_MESSAGES)),
    ({"prompt": [{"a": 1}]}, none_match(type_mismatch("/prompt", "string", "array"), NO_MESSAGES)),
    ({"prompt": "a", "lora": 5}, none_match(type_mismatch("/lora", "string", "number", "integer"))),
    ({"prompt": "a", "temperature": 6}, none_match("'/temperature' must be <= 5")),
    ({"prompt": "a", "temperature": -1}, none_match("'/temperature' must be >= 0")),
    ({"prompt": "a", "temperature": "0.5"}, none_match(type_mismatch("/temperature", "number", "string"))),
    ({"prompt": "a", "temperature": None}, none_match(type_mismatch("/temperature", "number", "null"))),
    ({"temperature": 6}, none_match("'/temperature' must be <= 5")),
    (
        {"prompt": 5, "temperature": 9},
        none_match(type_mismatch("/prompt", "string", "number", "integer"), "'/temperature' must be <= 5"),
    ),
    ({"prompt": "a", "top_k": 0}, none_match("'/top_k' must be >= 1")),
    ({"prompt": "a", "top_k": 51}, none_match("'/top_k' must be <= 50")),
    ({"prompt": "a", "top_k": 1.5}, none_match(type_mismatch("/top_k", "integer", "number"))),
    ({"prompt": "a", "top_p": 3}, none_match("'/top_p' must be <= 2")),
    ({"prompt": "a", "seed": 0}, none_match("'/seed' must be >= 1")),
    ({"prompt": "a", "seed": 10**10}, none_match("'/seed' must be <= 9999999999")),
    ({"prompt": "a", "repetition_penalty": -1}, none_match("'/repetition_penalty' must be >= 0")),
    ({"prompt": "a", "frequency_penalty": 3}, none_match("'/frequency_penalty' must be <= 2")),
    ({"prompt": "a", "presence_penalty": 3}, none_match("'/presence_penalty' must be <= 2")),
    ({"prompt": "a", "max_tokens": 1.5}, none_match(type_mismatch("/max_tokens", "integer", "number"))),
    ({"prompt": "a", "max_tokens": "10"}, none_match(type_mismatch("/max_tokens", "integer", "string"))),
    ({"prompt": "a", "max_tokens": True}, none_match(type_mismatch("/max_tokens", "integer", "boolean"))),
    ({"prompt": "a", "stream": "true"}, none_match(type_mismatch("/stream", "boolean", "string"))),
    ({"prompt": "a", "stream": 1}, none_match(type_mismatch("/stream", "boolean", "number", "integer"))),
    ({"prompt": "a", "raw": "true"}, none_match(type_mismatch("/raw", "boolean", "string"), NO_MESSAGES)),
    (
        {"messages": [{"role": "user"}]},
        none_match(NO_PROMPT, "required properties at '/messages/0' are 'role,content'"),
    ),
    (
        {"messages": [TURN, {"content": "x"}]},
        none_match(NO_PROMPT, "required properties at '/messages/1' are 'role,content'"),
    ),
    ({"messages": [TURN, "hi"]}, none_match(NO_PROMPT, "required properties at '/messages/1' are 'role,content'")),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        none_match(NO_PROMPT, type_mismatch("/messages/0/content", "string", "array")),
    ),
    (
        {"messages": [{"role": "user", "content": ["a"]}]},
        none_match(NO_PROMPT, type_mismatch("/messages/0/content", "string", "array", "binary")),
    ),
    (
        {"messages": [{"role": "user", "content": None}]},
        none_match(NO_PROMPT, type_mismatch("/messages/0/content", "string", "null")),
    ),
    (
        {"messages": [{"role": 5}]},
        none_match(NO_PROMPT, type_mismatch("/messages/0/role", "string", "number", "integer")),
    ),
    ({"messages": "x"}, none_match(NO_PROMPT, type_mismatch("/messages", "array", "string"))),
    *(({"messages": absent}, none_match(NO_PROMPT, NO_MESSAGES)) for absent in NO_LISTS),
    ({"messages": [TURN], "tools": "x"}, none_match(NO_PROMPT, type_mismatch("/tools", "array", "string"))),
    ({"messages": [TURN], "functions": "x"}, none_match(NO_PROMPT, type_mismatch("/functions", "array", "string"))),
    (
        {"messages": [TURN], "functions": [{"name": "x"}]},
        none_match(NO_PROMPT, "required properties at '/functions/0' are 'name,code'"),
    ),
]


REFUSED += [
    (
        {"prompt": "a", "response_format": {"type": "json"}},
        none_match("enum json not in json_object,json_schema at '/response_format/type'"),
    ),
    (
        {"prompt": "a", "response_format": {"type": "a secret text"}},
        none_match("enum value not in json_object,json_schema at '/response_format/type'"),
    ),
    (
        {"messages": [TURN], "response_format": {"type": 5}},
        none_match("enum 5 not in json_object,json_schema at '/response_format/type'"),
    ),
    (
        {"messages": [TURN], "response_format": {"type": None}},
        none_match("enum null not in json_object,json_schema at '/response_format/type'"),
    ),
]


@pytest.mark.parametrize(("body", "text"), REFUSED, ids=lambda value: repr(value)[:60])
def test_a_refusal_has_the_reference_wording(body: object, text: str) -> None:
    assert refusal(body) == text


ACCEPTED: list[dict[str, Any]] = [
    {"prompt": "a", "messages": [{"role": "user"}]},  # invalid messages beside a prompt do not count
    {"prompt": "a", "messages": "x"},
    {"prompt": "a", "functions": "x"},
    {"prompt": "", "messages": [TURN]},
    {"prompt": "a" * 131072},
    {"prompt": "a", "max_tokens": 0},
    {"prompt": "a", "max_tokens": -1},
    {"prompt": "a", "max_tokens": 3.0},
    {"prompt": "a", "repetition_penalty": 0},
    {"prompt": "a", "stop": None, "tool_choice": "auto", "n": 1},
    {"messages": [TURN], "raw": "true"},  # the documented adapter call sends exactly that
    {"messages": []},
    {"messages": ["hi"]},
    {"messages": [None]},
    {"messages": [TURN], "tools": [{}]},
    {"messages": [TURN], "tools": [{"type": "function", "function": {"name": "a"}}]},
    {"messages": [TURN], "tools": None},
    {"messages": [TURN], "functions": ["a"]},
    {"prompt": "a", "response_format": {}},
    {"prompt": "a", "response_format": None},
    {"prompt": "a", "response_format": "json_object"},
    {"prompt": "a", "response_format": {"type": "json_schema"}},
    {"messages": [TURN], "tool_choice": {"type": "function"}},
    {"messages": [TURN], "raw": True},
]


@pytest.mark.parametrize("body", ACCEPTED, ids=lambda body: repr(body)[:60])
def test_what_the_reference_accepts_is_accepted(body: dict[str, Any]) -> None:
    branch = "prompt" if body.get("prompt") else "messages"
    fields = validate(RUN_INPUT_SCHEMA, body)
    assert fields[branch] == body[branch]


def test_defaults_are_those_of_the_branch_that_fits() -> None:
    common = {"stream": False, "max_tokens": 256, "temperature": 0.6}
    assert validate(RUN_INPUT_SCHEMA, {"prompt": "a"}) == {"prompt": "a", "raw": False, **common}
    assert validate(RUN_INPUT_SCHEMA, {"messages": [TURN]}) == {"messages": [TURN], **common}


def test_fields_of_the_other_branch_and_unknown_ones_are_dropped() -> None:
    fields = validate(RUN_INPUT_SCHEMA, {"messages": [TURN], "prompt": 5, "raw": "true", "n": 1, "stop": None})
    assert not {"prompt", "n", "stop"} & fields.keys()


def test_a_refusal_does_not_quote_the_callers_own_keys() -> None:
    assert "secret" not in refusal({"messages": {"secret": {"role": "user"}}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for branch in RUN_INPUT_SCHEMA["oneOf"] for name in branch["properties"]})


@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
def test_any_json_is_accepted_or_refused_with_a_reason(body: object) -> None:
    reason = complaint(partial(validate, RUN_INPUT_SCHEMA, body))
    assert reason is None or reason.startswith("oneOf at '/' not met")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": NaN}',
        b'{"prompt": Infinity}',
        b'{"max_tokens": 1e400}',
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"prompt=hello",
    ],
    ids=lambda body: repr(body)[:30],
)
def test_json_that_cannot_be_read_is_an_input_error(body: bytes) -> None:
    with pytest.raises(InputError):
        decode_json(body)


def test_a_byte_order_mark_and_duplicate_keys_are_read_as_javascript_does() -> None:
    assert decode_json(b'\xef\xbb\xbf{"prompt": "a", "prompt": "b"}') == {"prompt": "b"}


@given(st.binary(max_size=50))
def test_any_bytes_are_json_or_an_input_error(body: bytes) -> None:
    reason = complaint(partial(decode_json, body))
    assert reason is None or "not valid JSON" in reason


@pytest.mark.parametrize("text", ["", "x" * (MAX_TEXT + 1), "\U0001f600" * (MAX_TEXT // 2 + 1)])
def test_the_shortcut_lets_no_text_through_that_is_too_short_or_too_long(text: str) -> None:
    assert not SHORTCUT.knows({"prompt": text})
    with pytest.raises(InputError, match="Length of '/prompt'"):
        parse_input({"prompt": text})


def test_the_shortcut_knows_what_most_callers_send() -> None:
    assert SHORTCUT.knows({"prompt": "hi"})
    assert SHORTCUT.knows({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5})
    assert not SHORTCUT.knows({"prompt": "hi", "messages": []})
    assert not SHORTCUT.knows({"prompt": "hi", "tools": []})
