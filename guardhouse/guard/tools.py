"""Tools that a caller offers, and calls of them: which must be made, the grammar that makes a call valid, a call's parts.

Knows: both shapes in which tools are written, JSON Schema as far as a call needs it, the text of a call.
Never knows: HTTP, token ids, what a tool does. A tool is never run, and the code of a `function` is not even read.

A guard answers with its verdict, so where the caller leaves the choice to the model, a call comes only if the model begins
one. Where the caller demands a call, the model writes it after its verdict, held to the grammar of the tools' own schemas:

    unsafe\\nO3 ↵↵ Tools: … Call: ↵ | {"name":"report","arguments":{"category":"O3"}}
    └──────── lead ───────────────┘
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from guardhouse.errors import InputError, SchemaError, SchemaUnmet

JsonSchema = dict[str, Any]

MAX_NAME = 128  # characters
ANY_ARGUMENTS: JsonSchema = {"type": "object"}
HEADER = re.compile(r'\{"name":("(?:[^"\\]|\\.)*"),"arguments":')
LITERALS = ("const", "enum", "default", "examples")  # what they hold is data, no schema
COMPACT = {"x-guidance": {"whitespace_flexible": False}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as it is offered to the model."""

    name: str
    description: str
    parameters: JsonSchema


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made. Its arguments meet the tool's schema."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What the caller demands. "named": a call of the tool `name`."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


def parse_tools(items: Sequence[object]) -> tuple[Tool, ...]:
    """{"name", "description", "parameters"}, bare or under "function". What has no name is left out, as the service did.

    >>> [tool.name for tool in parse_tools([{"name": "a"}, {"type": "function", "function": {"name": "b"}}, {}])]
    ['a', 'b']
    """
    found: dict[str, Tool] = {}
    for item in items:
        given = item.get("function", item) if isinstance(item, Mapping) else None
        name = given.get("name") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            continue
        description, parameters = given.get("description"), given.get("parameters")
        found[name] = Tool(
            name,
            description if isinstance(description, str) else "",
            ANY_ARGUMENTS if parameters is None or not isinstance(parameters, dict) else parameters,
        )
    return tuple(found.values())


def parse_choice(value: object, tools: Sequence[Tool]) -> ToolChoice:
    """ "auto" (also if it is not given), "none", "required", or {"function": {"name"}}. Without tools it means nothing.

    Raises InputError for anything else, and for a tool that is not offered.
    """
    if value is None or not tools:
        return ToolChoice("auto")
    match value:
        case "auto" | "none" | "required":
            return ToolChoice(value)
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            if all(name != tool.name for tool in tools):
                raise InputError("tool_choice names a tool that is not offered")
            return ToolChoice("named", name)
    raise InputError("tool_choice must be 'auto', 'none', 'required' or name a tool")


def demanded(tools: Sequence[Tool], choice: ToolChoice) -> tuple[Tool, ...]:
    """The tools of which one must be called; none if the model is free."""
    if choice.mode == "named":
        return tuple(tool for tool in tools if tool.name == choice.name)
    return tuple(tools) if choice.mode == "required" else ()


def call_schema(tools: Sequence[Tool]) -> JsonSchema:
    """What a call of one of these tools looks like. Raises SchemaError where a tool's parameters are no object's."""
    if len(tools) == 1:
        return _one_call(tools[0], "#/properties/arguments")
    return {"anyOf": [_one_call(tool, f"#/anyOf/{number}/properties/arguments") for number, tool in enumerate(tools)]}


def free_grammar(tools: Sequence[Tool]) -> str:
    """Lark: any text, but what begins like a call is a valid one."""
    schema = json.dumps({**call_schema(tools), **COMPACT})
    return f"start: TEXT | call\nTEXT: /([^{{](.|\\n)*)?/\ncall: %json {schema}\n"


def call_lead(verdict: str, tools: Sequence[Tool]) -> str:
    """What stands before a demanded call: the verdict, so that the call can rest on it, and what is offered."""
    offered = "\n".join(f"{tool.name}: {tool.description}".rstrip(": ") for tool in tools)
    return f"{verdict}\n\nTools:\n{offered}\n\nCall:\n"


def parse_call(text: str) -> ToolCall | None:
    """A whole call, or None for any other text."""
    if not HEADER.match(text):
        return None
    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError):  # cut short, or a number that no client could read
        raise SchemaUnmet("the model's call is not complete") from None
    return ToolCall(value["name"], value["arguments"])


class CallStream:
    """A call as it is written. Invariant: `feed`'s pieces and `rest`, joined, are the JSON text of its arguments."""

    def __init__(self) -> None:
        self.name: str | None = None  # once it is known
        self._held = ""

    def feed(self, piece: str) -> str:
        """The next part of the arguments' text.

        >>> stream = CallStream(); [stream.feed(piece) for piece in ('{"name":"a","argu', 'ments":{"b"', ':1}', '}')]
        ['', '{"b', '":1', '}']
        """
        self._held += piece
        if self.name is None:
            header = HEADER.match(self._held)
            if header is None:
                return ""
            self.name = json.loads(header[1])
            self._held = self._held[header.end() :]
        text, self._held = self._held[:-1], self._held[-1:]  # the last brace belongs to the call, not to its arguments
        return text


def _one_call(tool: Tool, path: str) -> JsonSchema:
    parameters = _moved(tool.parameters, path)
    if parameters.setdefault("type", "object") != "object":
        raise SchemaError("a tool's parameters must describe an object")
    if "properties" in parameters:
        parameters.setdefault("additionalProperties", False)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, path: str) -> Any:
    """A schema that stands under `path` now: its references within itself follow. Raises SchemaError if it is too deep."""
    try:
        return _with_moved_refs(schema, path)
    except RecursionError:
        raise SchemaError("a tool's parameters are nested too deeply") from None


def _with_moved_refs(schema: Any, path: str) -> Any:
    if isinstance(schema, list):
        return [_with_moved_refs(item, path) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: value if key in LITERALS else _with_moved_refs(value, path) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = path + reference[1:]
    return moved
