"""A request that may draw only some tokens, and may have to wait until it knows which."""

import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fake_model import VOCAB_SIZE, FakeModel
from numpy.typing import NDArray

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Drawn, Request, RequestResult, SamplingParams
from guardhouse.engine.sampler import Sampler, with_logprobs
from guardhouse.errors import InputError, SchemaUnmet

EVEN = np.arange(VOCAB_SIZE) % 2 == 0
SEEDED = SamplingParams(max_tokens=12, temperature=1.0, seed=4)


def engine_of(model: FakeModel, num_blocks: int = 64) -> Engine:
    return Engine(
        model, EngineConfig(num_blocks=num_blocks, block_size=4, max_model_len=200, max_num_batched_tokens=32)
    )


def request_of(*tokens: int, **fields: Any) -> Request:
    return Request(np.array(tokens, np.int32), **{"sampling": SEEDED, **fields})


@dataclass
class Slow:
    """Even tokens only. What may be drawn is known once `open` was called; from then on at once, or a moment later."""

    delay_s: float = 0.0
    is_known: bool = False
    calls: list[Callable[[], None]] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    def when_ready(self, call: Callable[[], None]) -> bool:
        if not self.is_known:
            self.calls.append(call)
        return self.is_known

    def allowed(self) -> NDArray[np.bool_]:
        assert self.is_known
        return EVEN

    def accept(self, token_id: int) -> None:
        self.accepted.append(token_id)
        if self.delay_s:
            self.is_known = False
            threading.Timer(self.delay_s, self.open).start()

    def open(self) -> None:
        self.is_known = True
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def text_alone(*tokens: int) -> tuple[int, ...]:
    with engine_of(FakeModel()) as engine:
        return engine.submit(request_of(*tokens, constraint=Slow(is_known=True))).result().token_ids


def test_only_allowed_tokens_are_drawn_and_the_constraint_hears_of_each_but_the_last() -> None:
    constraint = Slow(is_known=True)
    with engine_of(FakeModel()) as engine:
        result = engine.submit(request_of(1, 2, constraint=constraint)).result()
    assert all(token % 2 == 0 for token in result.token_ids)
    assert tuple(constraint.accepted) == result.token_ids[:-1]


def test_greedy_takes_the_likeliest_allowed_token() -> None:
    logits = np.linspace(0, 1, VOCAB_SIZE, dtype=np.float32)
    sampler = Sampler(SamplingParams(), 1, array("i"), VOCAB_SIZE)
    assert sampler.draw(logits, EVEN) == VOCAB_SIZE - 2


def test_a_request_that_may_not_draw_yet_holds_up_nobody() -> None:
    constraint = Slow()
    with engine_of(FakeModel()) as engine:
        held = engine.submit(request_of(1, 2, constraint=constraint))
        others = [engine.submit(request_of(3, number)) for number in range(8)]
        assert all(len(other.result(timeout=20).token_ids) == 12 for other in others)
        assert not held.done()
        constraint.open()
        assert held.result(timeout=20).token_ids == text_alone(1, 2)
        engine.check_no_leaks()


def test_a_lone_request_waits_without_spinning_and_goes_on() -> None:
    model = FakeModel()
    with engine_of(model) as engine:
        result = engine.submit(request_of(1, 2, constraint=Slow(delay_s=0.01, is_known=True))).result(timeout=20)
    assert result.token_ids == text_alone(1, 2)
    assert len(model.step_sizes) == 12  # one step per token: none was computed twice or for nothing


def test_preemption_while_held_changes_nothing() -> None:
    model = FakeModel()
    with engine_of(model, num_blocks=9) as engine:
        texts = [
            engine.submit(request_of(number, 7, 7, 7, 7, constraint=Slow(delay_s=0.003, is_known=True)))
            for number in range(6)
        ]
        plain = [engine.submit(request_of(30 + number, 7, 7)) for number in range(6)]
        found = [text.result(timeout=60).token_ids for text in texts]
        assert all(len(other.result(timeout=60).token_ids) == 12 for other in plain)
        assert engine.stats().num_preemptions > 0
        engine.check_no_leaks()
    assert found == [text_alone(number, 7, 7, 7, 7) for number in range(6)]


def test_a_held_request_can_be_cancelled_and_a_closed_engine_fails_it() -> None:
    constraint = Slow()
    with engine_of(FakeModel()) as engine:
        held = engine.submit(request_of(1, 2, constraint=constraint))
        while not constraint.calls:
            pass
        held.cancel()
        assert len(engine.submit(request_of(3)).result(timeout=20).token_ids) == 12
        constraint.open()  # too late: nobody waits for it
        engine.check_no_leaks()


def test_an_error_of_a_constraint_fails_its_request_alone() -> None:
    class Failing(Slow):
        def allowed(self) -> NDArray[np.bool_]:
            raise SchemaUnmet("too costly")

    with engine_of(FakeModel()) as engine:
        failing = engine.submit(request_of(1, 2, constraint=Failing(is_known=True)))
        other = engine.submit(request_of(3, 4))
        with pytest.raises(SchemaUnmet):
            failing.result(timeout=20)
        assert len(other.result(timeout=20).token_ids) == 12


def test_a_caller_ends_its_text_by_saying_so() -> None:
    seen: list[Drawn] = []

    def on_token(drawn: Drawn) -> bool:
        seen.append(drawn)
        return len(seen) == 3

    with engine_of(FakeModel()) as engine:
        result: RequestResult = engine.submit(request_of(1, on_token=on_token)).result()
    assert (len(result.token_ids), result.finish_reason) == (3, "stop")


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    model = FakeModel()
    sampling = SamplingParams(max_tokens=3, temperature=0.3, frequency_penalty=1.5, seed=1)
    with engine_of(model) as engine:
        result = engine.submit(
            request_of(1, 2, sampling=sampling, num_logprobs=4, constraint=Slow(is_known=True))
        ).result()
    tokens = [1, 2]
    for drawn in result.drawn:
        row = model.logits_after(np.array(tokens)).astype(np.float64)
        expected = row - np.log(np.exp(row).sum())
        assert drawn.logprob == pytest.approx(expected[drawn.token_id])
        assert [token for token, _ in drawn.top] == np.argsort(-row, kind="stable")[:4].tolist()
        assert [logprob for _, logprob in drawn.top] == pytest.approx(np.sort(expected)[::-1][:4].tolist())
        tokens.append(drawn.token_id)
    assert tuple(tokens[2:]) == result.token_ids


def test_equal_logits_are_ranked_by_their_ids() -> None:
    drawn = with_logprobs(3, np.zeros(8, np.float32), 3)
    assert [token for token, _ in drawn.top] == [0, 1, 2]
    assert drawn.logprob == pytest.approx(-np.log(8))
    assert with_logprobs(3, np.zeros(8, np.float32), 0).top == ()


def test_more_log_probabilities_than_tokens_are_refused() -> None:
    with engine_of(FakeModel()) as engine, pytest.raises(InputError, match="num_logprobs"):
        engine.submit(request_of(1, num_logprobs=VOCAB_SIZE + 1))
