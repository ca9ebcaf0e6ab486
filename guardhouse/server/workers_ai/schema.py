"""The contract of the run route: the JSON Schema of its input, and the structs of what goes in and out.

Knows: the wire's keys, types, bounds and defaults, as the hosted model's catalogue page published them.
Never knows: HTTP, tokens, policies.

The schema is data because clients read it too, and because the reference service's error texts follow from its layout.
"""

from typing import Any

import msgspec

from guardhouse.guard.tools import Tool, parse_tools

MAX_TEXT = 131072  # UTF-16 code units, as the reference service (JavaScript) counts
JsonSchema = dict[str, Any]


def _number(low: float, high: float) -> JsonSchema:
    return {"type": "number", "minimum": low, "maximum": high}


GENERATION_PROPERTIES: JsonSchema = {
    "stream": {"type": "boolean", "default": False},
    "max_tokens": {"type": "integer", "default": 256},
    # The published default. Unless a caller sets a temperature the answer is greedy: a verdict must not be random.
    "temperature": {**_number(0, 5), "default": 0.6},
    "top_p": _number(0, 2),
    "top_k": {"type": "integer", "minimum": 1, "maximum": 50},
    "seed": {"type": "integer", "minimum": 1, "maximum": 9999999999},
    "repetition_penalty": _number(
        0, 2
    ),  # 0 is legal here and means "off" (1.0): divided by, it would be no penalty at all
    "frequency_penalty": _number(0, 2),
    "presence_penalty": _number(0, 2),
    "response_format": {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": ["json_object", "json_schema"]}, "json_schema": {}},
    },
}

RUN_INPUT_SCHEMA: JsonSchema = {
    "type": "object",
    "oneOf": [
        {
            "title": "Prompt",
            "properties": {
                "prompt": {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
                "raw": {"type": "boolean", "default": False},
                "lora": {"type": "string"},
                **GENERATION_PROPERTIES,
            },
            "required": ["prompt"],
        },
        {
            "title": "Messages",
            "properties": {
                "messages": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "role": {"type": "string"},
                            "content": {"type": "string", "maxLength": MAX_TEXT},
                        },
                        "required": ["role", "content"],
                    },
                },
                "functions": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "code": {"type": "string"}},
                        "required": ["name", "code"],
                    },
                },
                "tools": {"type": "array", "items": {}},  # two forms are documented, none was ever enforced
                "tool_choice": {},
                "lora": {"type": "string"},  # the documentation's own example for finetunes has it here
                "raw": {},  # true counts; whatever else was sent here was ever ignored ("true", in the documentation)
                **GENERATION_PROPERTIES,
            },
            "required": ["messages"],
        },
    ],
}


class RunInput(msgspec.Struct, frozen=True, kw_only=True):
    """A body that passed RUN_INPUT_SCHEMA. None: the caller did not say."""

    prompt: str | None = None
    messages: Any = None  # the schema lets lists of bare scalars through; the guard refuses them
    raw: bool = False
    lora: str = ""
    stream: bool = False
    max_tokens: int = 256
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    response_format: Any = None  # an object, or something that the reference service does not mind either
    tools: Any = None
    functions: Any = None
    tool_choice: Any = None

    @property
    def json_mode(self) -> str | None:
        """ "json_object", "json_schema" or None."""
        return self.response_format.get("type") if isinstance(self.response_format, dict) else None

    @property
    def json_schema(self) -> object:
        return self.response_format.get("json_schema")

    @property
    def offered_tools(self) -> tuple[Tool, ...]:
        """`tools`, and `functions` as tools: their code is neither read nor run."""
        if self.tools is None and self.functions is None:
            return ()
        functions = self.functions if isinstance(self.functions, list) else []
        tools = self.tools if isinstance(self.tools, list) else []
        return parse_tools([*functions, *tools])


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the caller's prompt and of the answer; what the guard appends for itself is not counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class RunOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """`result` of an answer that was not streamed."""

    response: Any  # a trimmed string; in JSON mode the value itself
    usage: Usage
    tool_calls: list[dict[str, Any]] | None = None  # {"name", "arguments"}; a list wherever tools were offered
    verdict: dict[str, Any] | None = None  # absent where the caller owns the template (`raw`)
