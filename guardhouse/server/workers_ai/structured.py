"""JSON mode and tool calls: what the model writes after its verdict, held to a grammar.

Knows: what the wire calls a JSON object, a schema's value and a call, whole and as deltas.
Never knows: HTTP, events, how a grammar holds a text.

The verdict comes first and is never random; the model goes on from it, so that what it fills in can rest on it:

    json_object   {"safe": false, "categories": ["O3"]}: the verdict itself, nothing is generated
    json_schema   … tail | unsafe\\nO3 ↵ | {"flagged":true,"why":"O3"}
    tools         … tail | unsafe\\nO3 ↵↵ Tools: … Call: ↵ | {"name":"report","arguments":{…}}

With `raw` the caller owns the prompt: there is no verdict, and the model goes on from exactly that text.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from guardhouse.errors import SchemaError, SchemaUnmet
from guardhouse.guard.generating import Generation, Piece
from guardhouse.guard.tools import CallStream, Tool, call_lead, call_schema, parse_call
from guardhouse.guard.verdict import Verdict
from guardhouse.server.errors import StreamedSchema
from guardhouse.server.workers_ai.question import Answer, Delta, Emit, Question, usage_of
from guardhouse.server.workers_ai.schema import RunOutput

ANY_OBJECT = {"type": "object"}


async def answer_with_object(question: Question) -> Answer:
    """`json_object`: the verdict as Llama Guard 3's hosted version writes it. With `raw`: any object."""
    if question.run.raw:
        return await _constrained(question, ANY_OBJECT)
    verdict = await question.verdict()
    response = {"safe": not verdict.flagged, "categories": list(verdict.codes)}
    text = msgspec.json.encode(response).decode()
    num_tokens = question.guard.count_tokens(text)
    if num_tokens > question.sampling.max_tokens:
        raise SchemaUnmet("the object needs more than max_tokens")
    question.emit(Delta(text))
    usage = usage_of(verdict.num_prompt_tokens, num_tokens)
    return Answer(RunOutput(response, usage, question.calls(), verdict.as_dict()), verdict)


async def answer_with_json(question: Question) -> Answer:
    """`json_schema`: a value that the model writes and that meets the caller's schema."""
    if question.run.stream:
        raise StreamedSchema
    return await _constrained(question, bare_schema(question.run.json_schema))


async def answer_with_call(question: Question, tools: tuple[Tool, ...]) -> Answer:
    """A call of one of these tools."""
    grammar = await question.compiled(lambda: question.guard.compile_schema(call_schema(tools)))
    verdict = None if question.run.raw else await question.verdict()
    lead, text = ("", "") if verdict is None else (call_lead(verdict.text, tools), verdict.text)
    if text:
        question.emit(Delta(text))
    deltas = CallDeltas(question.emit)
    generation = await question.generation(lead=lead, grammar=grammar, on_piece=deltas.show)
    call = parse_call(generation.text) if generation.meets_grammar else None
    if call is None:
        raise SchemaUnmet("the call needs more than max_tokens")
    deltas.finish()
    output = _output(question, text, generation, verdict, question.calls(call))
    return Answer(output, verdict)


def bare_schema(given: object) -> Mapping[str, Any]:
    """The schema itself: callers used to OpenAI wrap it as {"name", "schema", "strict"}."""
    if not isinstance(given, dict):
        raise SchemaError("response_format needs a json_schema, which must be an object")
    wrapped = given.get("schema")
    is_wrapped = isinstance(wrapped, dict) and not given.keys() & {"type", "properties", "$ref", "anyOf", "enum"}
    return wrapped if is_wrapped and isinstance(wrapped, dict) else given


class CallDeltas:
    """Emits a call as it is written, in OpenAI's form: its name, its arguments' text in parts, an end.

    `is_free`: the model may write text instead; then its text is emitted as such.
    """

    def __init__(self, emit: Emit, *, is_free: bool = False) -> None:
        self._emit = emit
        self._is_free = is_free
        self._is_text: bool | None = None if is_free else False  # None: nothing has come yet
        self._stream = CallStream()
        self._has_name = False

    def show(self, piece: Piece) -> None:
        if self._is_text is None and piece.text:
            self._is_text = not piece.text.startswith("{")
        if self._is_text:
            if piece.text:
                self._emit(Delta(piece.text))
            return
        arguments = self._stream.feed(piece.text)
        if self._stream.name is not None and not self._has_name:
            self._has_name = True
            function = {"name": self._stream.name, "arguments": ""}
            self._emit_call({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
        if arguments:
            self._emit_call({"function": {"arguments": arguments}})

    def finish(self) -> None:
        """The end that clients of the hosted service wait for."""
        self._emit_call({"id": None, "type": None, "function": {"name": None, "arguments": ""}})

    def _emit_call(self, part: dict[str, Any]) -> None:
        self._emit(Delta(tool_calls=({"index": 0, **part},)))


async def _constrained(question: Question, schema: Mapping[str, Any]) -> Answer:
    grammar = await question.compiled(lambda: question.guard.compile_schema(schema))
    verdict = None if question.run.raw else await question.verdict()
    lead = "" if verdict is None else f"{verdict.text}\n"
    generation = await question.generation(lead=lead, grammar=grammar, on_piece=question.emit_piece)
    if not generation.meets_grammar:
        raise SchemaUnmet("the value needs more than max_tokens")
    try:
        response = msgspec.json.decode(generation.text)
    except ValueError:  # a number that no client could read, such as 1e999
        raise SchemaUnmet("the value is no JSON that clients can read") from None
    return Answer(_output(question, response, generation, verdict, question.calls()), verdict)


def _output(
    question: Question,
    response: Any,
    generation: Generation,
    verdict: Verdict | None,
    calls: list[dict[str, Any]] | None,
) -> RunOutput:
    """Usage counts the caller's prompt and what the caller gets: not the lead that we put in between."""
    if verdict is None:
        usage = usage_of(generation.num_prompt_tokens, generation.num_completion_tokens)
        return RunOutput(response, usage, calls)
    num_text_tokens = question.guard.count_tokens(response) if calls and isinstance(response, str) else 0
    usage = usage_of(verdict.num_prompt_tokens, num_text_tokens + generation.num_completion_tokens)
    return RunOutput(response, usage, calls, verdict.as_dict())
