"""The parameters that OpenAI's chat and completions endpoints share.

Knows: their names, bounds and defaults, and which of them this server refuses.
Never knows: messages, replies.

Two defaults differ from OpenAI's, for a verdict must be neither random nor cut: `temperature` is 0 unless given, and an
answer has up to 256 tokens. What cannot be honoured and would change the answer is refused; what only concerns OpenAI's own
accounts and storage (`user`, `store`, `metadata`, …) is ignored.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from guardhouse.engine.request import SamplingParams
from guardhouse.errors import InputError
from guardhouse.server.context import Lora

DEFAULT_MAX_TOKENS = 256
MAX_CHOICES = 16
MAX_STOPS = 16  # OpenAI takes 4
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class CompletionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What both bodies may hold. null means that the caller did not say."""

    model: str | None = None
    lora: Lora | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None  # vLLM's; -1 and 0 are off
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None  # vLLM's
    logit_bias: dict[str, float] | None = None

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > MAX_STOPS or not all(given):
            raise InputError(f"'stop' must be up to {MAX_STOPS} strings, none of them empty")
        return tuple(given)


def sampling_of(options: CompletionOptions, max_tokens: int | None) -> SamplingParams:
    """Raises InputError for what cannot be honoured."""
    if options.logit_bias:
        raise InputError("'logit_bias' is not supported")
    return SamplingParams(
        max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
        temperature=options.temperature or 0.0,
        top_k=max(0, options.top_k or 0),
        top_p=1.0 if options.top_p is None else options.top_p,
        seed=options.seed,
        repetition_penalty=options.repetition_penalty or 1.0,
        frequency_penalty=options.frequency_penalty or 0.0,
        presence_penalty=options.presence_penalty or 0.0,
    )


def usage_of(written: Any) -> dict[str, Any]:
    """Tokens of the prompt, once, and of all choices."""
    prompt, completion = written[0].num_prompt_tokens, sum(one.num_completion_tokens for one in written)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": written[0].num_cached_tokens},
    }
