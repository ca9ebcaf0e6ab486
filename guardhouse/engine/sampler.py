"""Draw the next token of one request from a row of logits.

Knows: logits, sampling parameters, the request's own tokens.
Never knows: other requests, batches, text.

Order: penalties, constraint, temperature, top-k, top-p, draw. All in float64, with a fixed order of operations, so the
same row gives the same token on every path. Token n of a request is drawn with number n of a counter-based generator
keyed by the seed: what is drawn does not depend on how often the request was preempted or what ran beside it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.request import Drawn, SamplingParams
from guardhouse.engine.sequence import IntArray
from guardhouse.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
TokenIds = NDArray[np.int64]

GREEDY_BELOW = 1e-5  # a temperature under this is greedy; the probabilities would be 0 and 1 to within rounding
LARGEST = np.finfo(np.float64).max


def validate_sampling(params: SamplingParams) -> None:
    """Refuse parameters that no draw can honour."""
    checks = {
        "max_tokens must be at least 1": params.max_tokens >= 1,
        "temperature must be finite and at least 0": math.isfinite(params.temperature) and params.temperature >= 0,
        "top_k must be at least 0": params.top_k >= 0,
        "top_p must be at least 0": params.top_p >= 0,  # false for NaN too
        "repetition_penalty must be finite and above 0": 0 < params.repetition_penalty < math.inf,
        "frequency_penalty must be finite": math.isfinite(params.frequency_penalty),
        "presence_penalty must be finite": math.isfinite(params.presence_penalty),
    }
    for claim, holds in checks.items():
        if not holds:
            raise InputError(claim)


class Sampler:
    """The draws of one request. Invariant: `num_drawn` tokens were drawn, and `_counts` counts them."""

    def __init__(self, params: SamplingParams, seed: int, prompt: IntArray, vocab_size: int) -> None:
        self.params = params
        self.seed = seed
        self.num_drawn = 0
        penalties = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        self._is_penalized = penalties != (1, 0, 0)
        self._counts = np.zeros(vocab_size, dtype=np.int64)  # of each token in the output
        self._is_seen = np.zeros(vocab_size, dtype=np.bool_)  # in prompt or output
        self._is_seen[np.array(prompt)] = True

    def draw(self, logits: Float32, allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token for a row of finite logits [vocab]; one of the `allowed` ones, if that is given."""
        scores = self._penalized(logits)
        if allowed is not None:
            scores = np.where(allowed, scores, -np.inf)
        if self.params.temperature >= GREEDY_BELOW:
            token = self._random_token(scores.astype(np.float64))
        else:
            token = int(scores.argmax())  # the lowest id among equals
        self._note(token)
        return token

    def _note(self, token: int) -> None:
        self.num_drawn += 1
        self._counts[token] += 1
        self._is_seen[token] = True

    def _penalized(self, logits: Float32) -> Float32 | Float64:
        params = self.params
        if not self._is_penalized:
            return logits
        scores = logits.astype(np.float64)
        with np.errstate(over="ignore"):
            if params.repetition_penalty != 1:
                seen = scores[self._is_seen]
                penalty = params.repetition_penalty
                scores[self._is_seen] = np.where(seen > 0, seen / penalty, seen * penalty)
                scores = np.clip(scores, -LARGEST, LARGEST)
            scores -= params.frequency_penalty * self._counts
            scores -= params.presence_penalty * (self._counts > 0)
        return np.clip(scores, -LARGEST, LARGEST)

    def _random_token(self, scores: Float64) -> int:
        tokens, weights = candidates(scores, self.params)
        cumulative = weights.cumsum()
        index = int(cumulative.searchsorted(uniform(self.seed, self.num_drawn) * cumulative[-1], side="right"))
        return int(tokens[min(index, len(tokens) - 1)])


def candidates(scores: Float64, params: SamplingParams) -> tuple[TokenIds, Float64]:
    """The tokens that may be drawn, in an order that depends on nothing else, and their weights, all above 0."""
    with np.errstate(over="ignore", under="ignore"):
        weights: Float64 = np.exp((scores - scores.max()) / params.temperature)
    tokens: TokenIds = np.flatnonzero(weights)
    if 0 < params.top_k < len(tokens):
        smallest = np.partition(scores[tokens], -params.top_k)[-params.top_k]
        tokens = tokens[scores[tokens] >= smallest]
        tokens = likeliest_first(tokens, scores)[: params.top_k]  # of equals, the lowest ids
    if params.top_p >= 1:
        return tokens, weights[tokens]
    # Only the fewest tokens that reach top_p stay. Those too light to be among them go before the sort, which takes
    # 9 ms for 32,000 tokens: all of them together weigh less than 1 - top_p.
    total = weights[tokens].sum()
    tokens = tokens[weights[tokens] >= (1 - params.top_p) * total / len(tokens)]
    tokens = likeliest_first(tokens, scores)
    cumulative = weights[tokens].cumsum()
    tokens = tokens[: int(cumulative.searchsorted(params.top_p * total)) + 1]
    return tokens, weights[tokens]


def likeliest_first(tokens: TokenIds, scores: Float64) -> TokenIds:
    """Ascending tokens, sorted by falling score; equals stay in order."""
    ranked: TokenIds = tokens[np.argsort(-scores[tokens], kind="stable")]
    return ranked


def with_logprobs(token: int, logits: Float32, num_top: int) -> Drawn:
    """The token with its log probability under raw logits [vocab], and those of the `num_top` likeliest."""
    scores = logits.astype(np.float64)
    logprobs = scores - scores.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    ranked: TokenIds = np.empty(0, np.int64)
    if num_top:
        least = np.partition(logprobs, -num_top)[-num_top]
        ranked = likeliest_first(np.flatnonzero(logprobs >= least), logprobs)[:num_top]
    return Drawn(token, float(logprobs[token]), tuple((int(one), float(logprobs[one])) for one in ranked))


def uniform(seed: int, counter: int) -> float:
    """Number `counter` of the stream that belongs to `seed`: a multiple of 2**-53 in [0, 1)."""
    bits = np.random.Philox(key=seed % 2**64, counter=counter).random_raw()
    return (int(bits) >> 11) * 2.0**-53
