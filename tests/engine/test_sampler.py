"""Sampling agrees with a plain, independent implementation, and depends on nothing but the row and the seed."""

import math
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from guardhouse.engine.request import SamplingParams
from guardhouse.engine.sampler import Sampler, candidates, uniform, validate_sampling
from guardhouse.errors import InputError

Logits = NDArray[np.float32]

# Few distinct values, so that equal logits are common; some of them extreme.
logit_rows = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, -1.0, 3e38, -3e38]), st.floats(-30, 30, width=32)), min_size=1, max_size=40
).map(lambda values: np.array(values, np.float32))


def sampler_of(params: SamplingParams, vocab_size: int, *, prompt: tuple[int, ...] = (), seed: int = 1) -> Sampler:
    return Sampler(params, seed, array("i", prompt), vocab_size)


def plain_probabilities(scores: list[float], params: SamplingParams) -> dict[int, float]:
    """Top-k and top-p by their definitions, token by token."""
    highest = max(scores)
    weights = {token: math.exp(max((score - highest) / params.temperature, -800)) for token, score in enumerate(scores)}
    ranked = sorted((token for token in weights if weights[token] > 0), key=lambda token: (-scores[token], token))
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = math.fsum(weights[token] for token in ranked)
    kept = []
    for token in ranked:
        kept.append(token)
        if math.fsum(weights[token] for token in kept) >= params.top_p * total:
            break
    kept = ranked if params.top_p >= 1 else kept
    total = math.fsum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept}


@given(
    logit_rows,
    st.sampled_from([0.1, 0.7, 1.0, 5.0]),
    st.integers(0, 45),
    st.sampled_from([0.0, 0.3, 0.77, 0.95, 1.0, 2.0]),
)
@example(np.array([0, 0, 0, 1, -3e38], np.float32), 0.1, 4, 1.0)  # four of five can be drawn at all
def test_candidates_agree_with_the_definitions(logits: Logits, temperature: float, top_k: int, top_p: float) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    tokens, weights = candidates(logits.astype(np.float64), params)
    expected = plain_probabilities([float(value) for value in logits], params)
    # A cumulative sum may fall on either side of top_p by rounding: then one more or fewer of the last is right too.
    assert abs(len(tokens) - len(expected)) <= (1 if top_p < 1 else 0)
    num_possible = len(plain_probabilities([float(value) for value in logits], SamplingParams(temperature=temperature)))
    if (top_k == 0 or top_k >= num_possible) and top_p >= 1:
        assert tokens.tolist() == sorted(expected)  # nothing is cut, so nothing need be sorted
        expected = {token: expected[token] for token in sorted(expected)}
    num_common = min(len(tokens), len(expected))
    assert tokens[:num_common].tolist() == list(expected)[:num_common]
    if len(tokens) == len(expected):
        np.testing.assert_allclose(weights / weights.sum(), list(expected.values()), rtol=1e-9)


@given(
    logit_rows,
    st.lists(st.integers(0, 39), max_size=10),
    st.lists(st.integers(0, 39), max_size=10),
    st.sampled_from([1.0, 1.3, 0.5, 5e-324]),
    st.sampled_from([0.0, 0.9, -2.0, 1e308]),
    st.sampled_from([0.0, 1.1, -2.0]),
)
def test_penalties_agree_with_the_definitions(
    logits: Logits, prompt: list[int], output: list[int], repetition: float, frequency: float, presence: float
) -> None:
    vocab_size = len(logits)
    prompt = [token % vocab_size for token in prompt]
    output = [token % vocab_size for token in output]
    params = SamplingParams(
        repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence, temperature=0
    )
    sampler = sampler_of(params, vocab_size, prompt=tuple(prompt))
    for token in output:  # make it "draw" exactly these
        sampler._note(token)
    scores = []
    for token, logit in enumerate(logits.tolist()):
        score = logit
        if token in prompt or token in output:
            score = score / repetition if score > 0 else score * repetition
        score = min(max(score, -1.7976931348623157e308), 1.7976931348623157e308)
        score -= frequency * output.count(token)
        score -= presence * (token in output)
        scores.append(min(max(score, -1.7976931348623157e308), 1.7976931348623157e308))
    assert sampler.draw(logits) == scores.index(max(scores))


@given(logit_rows, st.sampled_from([0.0, 5e-324, 1e-300, 1e-6]))
def test_smallest_temperatures_are_greedy_with_the_lowest_id_among_equals(logits: Logits, temperature: float) -> None:
    token = sampler_of(SamplingParams(temperature=temperature), len(logits)).draw(logits)
    assert token == logits.tolist().index(logits.max())


@given(logit_rows, st.integers(0, 2**64 - 1), st.floats(1e-5, 1e300))
def test_every_finite_row_gives_a_token_that_may_be_drawn(logits: Logits, seed: int, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, top_p=0.9)
    token = sampler_of(params, len(logits), seed=seed).draw(logits)
    assert token in candidates(logits.astype(np.float64), params)[0]


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = sampler_of(SamplingParams(temperature=1.0), 4)
    counts = np.bincount([sampler.draw(logits) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_draw_depends_on_the_seed_and_the_number_of_tokens_only() -> None:
    params = SamplingParams(temperature=1.0)
    rows = np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32)
    first = [sampler_of(params, 30).draw(rows[0])]
    sampler = sampler_of(params, 30)
    tokens = [sampler.draw(row) for row in rows]
    assert tokens[:1] == first
    assert tokens == [sampler_at(params, number).draw(row) for number, row in enumerate(rows)]
    other = sampler_of(params, 30, seed=2)
    assert tokens != [other.draw(row) for row in rows]


def sampler_at(params: SamplingParams, num_drawn: int) -> Sampler:
    sampler = sampler_of(params, 30)
    sampler.num_drawn = num_drawn
    return sampler


def test_stream_of_a_seed_is_fixed_for_good() -> None:
    stream = [uniform(7, 0), uniform(7, 1), uniform(2**64 + 7, 0), uniform(-1, 3)]
    assert stream == [0.8720734548204873, 0.0828426870273763, 0.8720734548204873, 0.10224385374061784]


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": -0.1},
        {"top_p": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"frequency_penalty": math.nan},
        {"presence_penalty": math.inf},
    ],
)
def test_parameters_that_no_draw_can_honour_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        validate_sampling(replace(SamplingParams(), **change))  # type: ignore[arg-type]
