"""Tools in both shapes, what a choice demands, and calls that always meet their tool's schema."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse import Guard
from guardhouse.engine.request import SamplingParams
from guardhouse.errors import InputError, SchemaError, SchemaUnmet
from guardhouse.guard.tools import (
    CallStream,
    Tool,
    ToolCall,
    ToolChoice,
    call_lead,
    call_schema,
    demanded,
    free_grammar,
    parse_call,
    parse_choice,
    parse_tools,
)

REPORT = Tool(
    "report",
    "Reports a category",
    {
        "type": "object",
        "properties": {"category": {"$ref": "#/$defs/code"}, "sure": {"type": "boolean"}},
        "required": ["category", "sure"],
        "$defs": {"code": {"enum": ["O1", "O2", "#/x"]}},
    },
)
IGNORE = Tool("ignore", "", {"type": "object", "properties": {}})
TOOLS = (REPORT, IGNORE)


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.load() as loaded:
        yield loaded


def test_both_shapes_are_read_and_what_has_no_name_is_left_out() -> None:
    items: list[Any] = [
        {"name": "a", "description": "does a", "parameters": {"type": "object", "properties": {}}},
        {"type": "function", "function": {"name": "b", "parameters": None}},
        {},
        None,
        "x",
        {"name": ""},
        {"name": 5},
        {"name": "x" * 129},
        {"type": "function"},
        {"function": []},
        {"name": "a", "description": 7, "parameters": "later ones win"},
    ]
    assert parse_tools(items) == (Tool("a", "", {"type": "object"}), Tool("b", "", {"type": "object"}))


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        (None, ToolChoice("auto")),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "ignore"}}, ToolChoice("named", "ignore")),
        ({"name": "report"}, ToolChoice("named", "report")),
    ],
)
def test_a_choice_is_read(value: object, choice: ToolChoice) -> None:
    assert parse_choice(value, TOOLS) == choice


@pytest.mark.parametrize("value", ["any", 5, True, [], {}, {"function": {}}, {"function": {"name": "other"}}])
def test_another_choice_is_refused_but_means_nothing_without_tools(value: object) -> None:
    with pytest.raises(InputError, match="tool_choice"):
        parse_choice(value, TOOLS)
    assert parse_choice(value, ()) == ToolChoice("auto")


def test_what_is_demanded() -> None:
    assert demanded(TOOLS, ToolChoice("auto")) == demanded(TOOLS, ToolChoice("none")) == ()
    assert demanded(TOOLS, ToolChoice("required")) == TOOLS
    assert demanded(TOOLS, ToolChoice("named", "ignore")) == (IGNORE,)


@pytest.mark.parametrize("tools", [(REPORT,), TOOLS], ids=["one", "two"])
@pytest.mark.parametrize("seed", range(3))
def test_a_demanded_call_meets_its_tools_schema(guard: Guard, tools: tuple[Tool, ...], seed: int) -> None:
    grammar = guard.compile_schema(call_schema(tools)).result()
    sampling = SamplingParams(max_tokens=100, temperature=2.0, seed=seed)
    written = guard.generate("Hi", sampling=sampling, grammar=grammar, lead=call_lead("safe", tools)).result()
    call = parse_call(written.text)
    assert call is not None
    tool = next(tool for tool in tools if tool.name == call.name)
    jsonschema_rs.validate(tool.parameters, call.arguments)
    assert call.arguments.keys() <= tool.parameters["properties"].keys()


def test_where_the_model_is_free_text_stays_text_and_a_call_is_valid(guard: Guard) -> None:
    grammar = guard.compile_grammar(free_grammar(TOOLS)).result()
    text = guard.generate("Hi", sampling=SamplingParams(max_tokens=20), grammar=grammar).result().text
    assert text == "safe"
    assert parse_call(text) is None
    led = guard.generate("x", raw=True, sampling=SamplingParams(max_tokens=1), grammar=grammar).result()
    assert led.meets_grammar


@pytest.mark.parametrize("parameters", [{"type": "string"}, {"type": ["object", "null"]}])
def test_parameters_that_are_no_object_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="must describe an object"):
        call_schema([Tool("a", "", parameters)])


def test_parameters_nested_too_deeply_are_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(SchemaError, match="nested too deeply"):
        call_schema([Tool("a", "", schema)])


def test_literals_that_look_like_references_stay() -> None:
    schema = {"properties": {"a": {"const": {"$ref": "#/x"}}, "$ref": {"type": "null"}, "b": {"$ref": "#"}}}
    moved = call_schema([Tool("a", "", schema)])["properties"]["arguments"]["properties"]
    assert moved["a"] == {"const": {"$ref": "#/x"}}
    assert moved["$ref"] == {"type": "null"}
    assert moved["b"] == {"$ref": "#/properties/arguments"}


names = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())
arguments = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=5) | st.none(), max_size=3)


@given(names, arguments, st.data())
def test_a_call_is_told_apart_however_it_is_cut(name: str, arguments: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    stream = CallStream()
    pieces = [stream.feed(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream.name == name
    assert json.loads("".join(pieces)) == arguments
    assert parse_call(text) == ToolCall(name, arguments)


def test_half_a_call_is_an_error_and_other_text_is_none() -> None:
    with pytest.raises(SchemaUnmet):
        parse_call('{"name":"a","arguments":{"b"')
    with pytest.raises(SchemaUnmet):
        parse_call('{"name":"a","arguments":{"b":1e999}}')
    assert parse_call("safe") is None
    assert parse_call('{"a": 1}') is None
