"""From a validated input to an answer: which of the guard's abilities serves it.

Knows: that a question without randomness is a judgement (one forward pass, no decoding), and any other a generation.
Never knows: HTTP, envelopes, events.

A judgement's text and a greedy generation agree by construction of the guard; a judgement also keeps to the configured
threshold, splits long texts into windows and knows its score. So a caller gets one unless sampling was asked for. The
schema's default temperature (0.6) is not applied: a verdict must not be random. JSON objects and tool calls are written
after the verdict (structured.py).
"""

from collections.abc import Coroutine
from typing import Any

from guardhouse.errors import SchemaError
from guardhouse.guard.guard import Guard
from guardhouse.guard.tools import Tool, demanded, free_grammar, parse_call, parse_choice
from guardhouse.server.workers_ai.question import Answer, Delta, Emit, Question, usage_of
from guardhouse.server.workers_ai.schema import RunInput, RunOutput
from guardhouse.server.workers_ai.structured import (
    CallDeltas,
    answer_with_call,
    answer_with_json,
    answer_with_object,
)


def answer(guard: Guard, run: RunInput, timeout_s: float, emit: Emit) -> Coroutine[Any, Any, Answer]:
    """Judge or generate. `emit` gets the answer in parts, on any thread. Cancelling frees the guard's work."""
    question = Question(guard, run, timeout_s, emit)
    if run.response_format is not None:
        json_mode = run.json_mode
        if json_mode == "json_schema":
            return answer_with_json(question)
        if json_mode == "json_object":
            return answer_with_object(question)
    tools = question.tools
    if tools:
        choice = parse_choice(run.tool_choice, tools)
        if needed := demanded(tools, choice):
            return answer_with_call(question, needed)
        if choice.mode == "none":
            tools = ()
    return _judgement(question) if question.is_judgement else _generation(question, tools)


async def _judgement(question: Question) -> Answer:
    verdict = await question.verdict()
    text = verdict.text
    if question.run.stream:
        question.emit(Delta(text))
    usage = usage_of(verdict.num_prompt_tokens, question.guard.count_answer_tokens(text))
    return Answer(RunOutput(text, usage, question.calls(), verdict.as_dict()), verdict)


async def _generation(question: Question, tools: tuple[Tool, ...]) -> Answer:
    """Text as the model writes it. Where it may call tools and begins to, its text is a call, and no response."""
    grammar = None
    if tools:
        try:
            grammar = await question.compiled(lambda: question.guard.compile_grammar(free_grammar(tools)))
        except SchemaError:  # nothing was demanded, so a tool that cannot be called is no error: it is not offered
            tools = ()
    deltas = CallDeltas(question.emit, is_free=True) if tools else None
    generation = await question.generation(grammar=grammar, on_piece=deltas.show if deltas else question.emit_piece)
    call = parse_call(generation.text) if tools else None
    if deltas and call:
        deltas.finish()
    text = "" if call else generation.text
    calls = question.calls(call)
    usage = usage_of(generation.num_prompt_tokens, generation.num_completion_tokens)
    if question.run.raw:
        return Answer(RunOutput(text, usage, calls), None)
    verdict = await question.verdict()  # cheap: the engine still has the prompt's keys and values
    return Answer(RunOutput(text, usage, calls, verdict.as_dict()), verdict)
