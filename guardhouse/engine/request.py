"""What one caller asks of the engine, and what comes back.

Knows: token ids, sampling parameters, logits.
Never knows: text, safety, other requests.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn. Penalties follow vLLM's and OpenAI's definitions.

    Order: penalties, temperature, top-k, top-p.
    """

    max_tokens: int = 256
    temperature: float = 0.0  # 0 is greedy; otherwise logits are divided by it
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # >= 1 is off
    seed: int | None = None  # None: drawn once when the request is submitted
    repetition_penalty: float = 1.0  # over prompt and output; 1 is off
    frequency_penalty: float = 0.0  # times the token's count in the output
    presence_penalty: float = 0.0  # once for every token seen in the output
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that was drawn and, where asked for, how likely the model itself made it.

    Log probabilities are natural, of the raw logits: before penalties, temperature, masks.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # (token id, log probability) of the likeliest, likeliest first


class Constraint(Protocol):
    """What one request may draw next. Used by the engine thread alone; nothing here may wait."""

    def when_ready(self, call: Callable[[], None]) -> bool:
        """True if `allowed` can be asked. Else `call` is called later, once, on any thread, when it can."""

    def allowed(self) -> NDArray[np.bool_]:
        """[vocab]; at least one is true. An exception fails the request."""

    def accept(self, token_id: int) -> None:
        """This token was drawn: work out, elsewhere, what may follow."""


class Adapter(Protocol):
    """What the model adds to its own weights for one request; opaque here but for its name."""

    @property
    def fingerprint(self) -> str:
        """Equal exactly where the keys and values that come of it are."""


@dataclass(frozen=True, slots=True)
class Request:
    """Prefill `token_ids`, report the logits after some of them, then decode if `sampling` (or `decide`) says so."""

    token_ids: NDArray[np.int32]  # [num_prompt_tokens], at least one
    logit_positions: tuple[int, ...] = ()  # indices into token_ids: the logits that follow that token are reported
    sampling: SamplingParams | None = None  # None: no token is generated unless `decide` asks for it
    decide: Callable[[NDArray[np.float32]], SamplingParams | None] | None = None
    # called once on the engine thread after prefill with the reported rows [len(logit_positions), vocab]; what it
    # returns replaces `sampling`. It must be quick and pure; an exception from it fails this request alone.
    constraint: Constraint | None = None
    num_logprobs: int | None = None  # None: no log probabilities; n: of the drawn token and of the n likeliest
    on_token: Callable[[Drawn], bool | None] | None = None  # called on the engine thread; True: enough, stop here
    adapter: Adapter | None = None  # None: the model's own weights
    is_follow_up: bool = False  # goes on with work that was let in before: a full queue does not refuse it
    deadline: float | None = None  # time.monotonic() value after which the request fails with DeadlineExceeded


@dataclass(frozen=True, slots=True)
class RequestResult:
    """What the future of a request resolves to."""

    logits: NDArray[np.float32]  # [len(logit_positions), vocab]
    token_ids: tuple[int, ...] = ()  # generated; a final stop token is included
    finish_reason: str = "prefill"  # "prefill" (nothing was asked to be generated), "stop" or "length"
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # prompt tokens whose keys and values were found in the cache
    queue_s: float = 0.0  # seconds between submission and the first step
    run_s: float = 0.0  # seconds between the first step and the last
    drawn: tuple[Drawn, ...] = ()  # one per generated token, if log probabilities were asked for
    seed: int | None = field(default=None)  # the seed that was used, when tokens were drawn
