"""From a validated input to an answer: which of the guard's abilities serves it.

Knows: that a question without randomness is a judgement (one forward pass, no decoding), and any other a generation.
Never knows: HTTP, envelopes, events.

A judgement's text and a greedy generation agree by construction of the guard; a judgement also keeps to the configured
threshold, splits long texts into windows and knows its score. So a caller gets one unless sampling was asked for. The
schema's default temperature (0.6) is not applied: a verdict must not be random.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from guardhouse.engine.request import SamplingParams
from guardhouse.errors import InputError
from guardhouse.guard.guard import Guard
from guardhouse.guard.verdict import Verdict
from guardhouse.server.schema import RunInput, RunOutput, Usage
from guardhouse.server.submission import result_of

MIN_VERDICT_TOKENS = 16  # a smaller max_tokens may cut a verdict short: then it is a generation of that many tokens
MIN_TEMPERATURE = 1e-3  # below, logits divided by it overflow or leave one token anyway: greedy
MIN_TOP_P = 1e-6  # 0 is legal on the wire: the likeliest token stays


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found out about one input."""

    output: RunOutput
    verdict: Verdict | None


def sampling_params(run: RunInput) -> SamplingParams:
    """The engine's parameters for what the caller said; what was not said is off."""
    if run.max_tokens < 1:
        raise InputError("'/max_tokens' must be >= 1")
    temperature = run.temperature or 0.0
    return SamplingParams(
        max_tokens=run.max_tokens,
        temperature=temperature if temperature >= MIN_TEMPERATURE else 0.0,
        top_k=run.top_k or 0,
        top_p=1.0 if run.top_p is None else max(run.top_p, MIN_TOP_P),
        seed=run.seed,
        repetition_penalty=run.repetition_penalty or 1.0,  # 0 means off
        frequency_penalty=run.frequency_penalty or 0.0,
        presence_penalty=run.presence_penalty or 0.0,
    )


def is_judgement(run: RunInput, sampling: SamplingParams) -> bool:
    """True where the answer can only be the guard's greedy verdict."""
    penalties = (sampling.repetition_penalty - 1.0, sampling.frequency_penalty, sampling.presence_penalty)
    return not (run.raw or sampling.temperature or any(penalties) or sampling.max_tokens < MIN_VERDICT_TOKENS)


async def answer(guard: Guard, run: RunInput, timeout_s: float, on_text: Callable[[str], None]) -> Answer:
    """Judge or generate. `on_text` gets the text in pieces, on any thread. Cancelling frees the guard's work."""
    sampling = sampling_params(run)

    def judge() -> Future[Verdict]:
        if run.prompt is not None:
            return guard.submit_prompt(run.prompt, all_categories=True, timeout_s=timeout_s)
        return guard.submit(run.messages, all_categories=True, timeout_s=timeout_s)

    size = _num_chars(run)
    if is_judgement(run, sampling):
        verdict = await result_of(judge, size)
        on_text(verdict.text)
        usage = _usage(verdict.num_prompt_tokens, guard.count_tokens(verdict.text))
        return Answer(RunOutput(verdict.text, usage, verdict.as_dict()), verdict)

    prompt = run.messages if run.prompt is None else run.prompt
    generation = await result_of(
        lambda: guard.generate(
            prompt, raw=run.raw, sampling=sampling, on_piece=lambda piece: on_text(piece.text), timeout_s=timeout_s
        ),
        size,
    )
    usage = _usage(generation.num_prompt_tokens, generation.num_completion_tokens)
    text = generation.text.strip()
    if run.raw:
        return Answer(RunOutput(text, usage), None)
    verdict = await result_of(judge, size)  # cheap: the engine still has the prompt's keys and values
    return Answer(RunOutput(text, usage, verdict.as_dict()), verdict)


def _usage(num_prompt_tokens: int, num_completion_tokens: int) -> Usage:
    return Usage(num_prompt_tokens, num_completion_tokens, num_prompt_tokens + num_completion_tokens)


def _num_chars(run: RunInput) -> int:
    if run.prompt is not None:
        return len(run.prompt)
    return sum(len(str(message.get("content"))) for message in run.messages if isinstance(message, dict))
