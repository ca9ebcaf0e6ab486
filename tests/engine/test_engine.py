"""The engine keeps its promises to callers: answers, limits, aborts, deadlines, failures, closing."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_model import VOCAB_SIZE, FakeModel

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Drawn, Request, RequestResult, SamplingParams
from guardhouse.errors import (
    ConfigError,
    ContextOverflow,
    DeadlineExceeded,
    EngineClosed,
    InputError,
    QueueFull,
    VerdictError,
)

GREEDY = SamplingParams(max_tokens=5)


def engine_of(model: FakeModel, **sizes: int) -> Engine:
    defaults = {"num_blocks": 64, "block_size": 4, "max_model_len": 200, "max_num_batched_tokens": 32}
    return Engine(model, EngineConfig(**{**defaults, **sizes}))  # type: ignore[arg-type]


def ids(*tokens: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array(tokens, np.int32)


def greedy_text(model: FakeModel, prompt: tuple[int, ...], num_tokens: int) -> tuple[int, ...]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(model.logits_after(np.array(tokens)).argmax()))
    return tuple(tokens[len(prompt) :])


def eventually(claim: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.001)


def submit_held(engine: Engine, model: FakeModel, request: Request) -> Future[RequestResult]:
    """Submit a request whose first step stays in the model until the gate opens."""
    model.gate.clear()
    model.started.clear()
    future = engine.submit(request)
    assert model.started.wait(10)
    return future


def test_logits_and_greedy_text_are_those_of_the_model() -> None:
    model = FakeModel()
    prompt = (3, 1, 4, 1, 5, 9, 2, 6)
    with engine_of(model) as engine:
        result = engine.submit(Request(ids(*prompt), (7, 0, 7), sampling=GREEDY)).result()
        engine.check_no_leaks()
    np.testing.assert_array_equal(result.logits[0], model.logits_after(ids(*prompt)))
    np.testing.assert_array_equal(result.logits[1], model.logits_after(ids(*prompt[:1])))
    np.testing.assert_array_equal(result.logits[2], result.logits[0])
    assert result.token_ids == greedy_text(model, prompt, 5)
    assert (result.finish_reason, result.num_prompt_tokens, result.num_cached_tokens) == ("length", 8, 0)


def test_prefill_alone_generates_nothing() -> None:
    with engine_of(FakeModel()) as engine:
        result = engine.submit(Request(ids(1, 2, 3), (2,))).result()
    assert (result.finish_reason, result.token_ids, result.seed) == ("prefill", (), None)
    assert min(result.queue_s, result.run_s) >= 0


def test_stop_token_ends_the_text_and_is_part_of_it() -> None:
    model = FakeModel()
    text = greedy_text(model, (1, 2), 20)
    stop = text[3]
    with engine_of(model) as engine:
        seen: list[Drawn] = []
        sampling = SamplingParams(max_tokens=20, stop_token_ids=frozenset([stop]))
        result = engine.submit(Request(ids(1, 2), sampling=sampling, on_token=seen.append)).result()
    assert result.token_ids == text[: text.index(stop) + 1] == tuple(drawn.token_id for drawn in seen)
    assert result.finish_reason == "stop"


def test_drawn_seed_is_reported_and_gives_the_same_text_again() -> None:
    with engine_of(FakeModel()) as engine:
        warm = SamplingParams(max_tokens=8, temperature=1.0)
        first = engine.submit(Request(ids(1, 2, 3), sampling=warm)).result()
        other = engine.submit(Request(ids(1, 2, 3), sampling=warm)).result()
        again = SamplingParams(max_tokens=8, temperature=1.0, seed=first.seed)
        assert engine.submit(Request(ids(1, 2, 3), sampling=again)).result().token_ids == first.token_ids
    assert first.seed != other.seed


def test_decide_sees_the_rows_and_chooses_what_is_generated() -> None:
    model = FakeModel()
    rows: list[Any] = []

    def decide(logits: Any) -> SamplingParams | None:
        rows.append(logits)
        return SamplingParams(max_tokens=2) if len(rows) == 1 else None

    with engine_of(model) as engine:
        request = Request(ids(1, 2, 3), (0,), sampling=GREEDY, decide=decide)
        generated = engine.submit(request).result()
        stopped = engine.submit(request).result()
    assert generated.token_ids == greedy_text(model, (1, 2, 3), 2)
    assert (stopped.token_ids, stopped.finish_reason) == ((), "prefill")
    np.testing.assert_array_equal(rows[0], generated.logits)


@pytest.mark.parametrize(
    ("callbacks", "error"),
    [
        ({"decide": lambda _: 1 / 0}, ZeroDivisionError),
        ({"decide": lambda _: SamplingParams(temperature=-1.0)}, InputError),
        ({"decide": lambda _: SamplingParams(max_tokens=500)}, ContextOverflow),
        ({"sampling": GREEDY, "on_token": lambda _: 1 / 0}, ZeroDivisionError),
    ],
)
def test_exception_of_a_callback_fails_that_request_alone(callbacks: dict[str, Any], error: type[Exception]) -> None:
    model = FakeModel()
    with engine_of(model) as engine:
        good = engine.submit(Request(ids(1, 2, 3), sampling=GREEDY))
        bad = engine.submit(Request(ids(4, 5, 6), **callbacks))
        with pytest.raises(error):
            bad.result()
        assert good.result().token_ids == greedy_text(model, (1, 2, 3), 5)
        eventually(lambda: engine.stats().num_running == 0)
        engine.check_no_leaks()


def test_bad_logits_fail_their_request_alone_and_are_not_kept() -> None:
    model = FakeModel()
    model.poison = 9
    with engine_of(model) as engine:
        long = ids(9, *range(10, 49))  # two steps: the first one's blocks are shared before the logits are seen
        bad = engine.submit(Request(long, (39,)))
        good = engine.submit(Request(ids(1, 2, 3), (2,)))
        with pytest.raises(VerdictError, match="not finite"):
            bad.result()
        good.result()
        with pytest.raises(VerdictError, match="not finite"):
            engine.pin(ids(9, 9, 9))
        model.poison = None  # the device is well again
        assert engine.submit(Request(long, (39,))).result().num_cached_tokens == 0
        assert engine.stats().num_pinned_blocks == 0


@pytest.mark.parametrize(
    "request_",
    [
        Request(ids()),
        Request(np.zeros((1, 2), np.int32)),
        Request(np.zeros(3, np.float32)),
        Request(ids(1, -1)),
        Request(ids(1, VOCAB_SIZE)),
        Request(ids(1, 2), (2,)),
        Request(ids(1, 2), (-1,)),
        Request(ids(1, 2), sampling=SamplingParams(max_tokens=0)),
        Request(ids(1, 2), sampling=SamplingParams(repetition_penalty=0)),
    ],
)
def test_malformed_request_is_refused_at_once(request_: Request) -> None:
    with engine_of(FakeModel()) as engine, pytest.raises(InputError):
        engine.submit(request_)


def test_request_beyond_the_window_is_refused_at_once() -> None:
    with engine_of(FakeModel(), max_model_len=10) as engine:
        engine.submit(Request(ids(*range(10)))).result()
        engine.submit(Request(ids(*range(5)), sampling=GREEDY)).result()
        with pytest.raises(ContextOverflow):
            engine.submit(Request(ids(*range(11))))
        with pytest.raises(ContextOverflow):
            engine.submit(Request(ids(*range(6)), sampling=GREEDY))


def test_request_that_can_never_get_its_blocks_is_refused() -> None:
    with engine_of(FakeModel(), num_blocks=4) as engine:
        engine.submit(Request(ids(*range(12)), sampling=GREEDY)).result()  # 16 slots, and the last token needs none
        with pytest.raises(ContextOverflow):
            engine.submit(Request(ids(*range(17))))
        engine.pin(ids(40, 41, 42))
        with pytest.raises(ContextOverflow):
            engine.submit(Request(ids(*range(16)))).result()  # fits no more beside the pin
        engine.submit(Request(ids(40, 41, 42, *range(9)))).result()
        engine.check_no_leaks()


def test_full_queue_refuses_and_says_when_to_come_back() -> None:
    model = FakeModel()
    with engine_of(model, max_queue=2, max_num_seqs=1) as engine:
        held = submit_held(engine, model, Request(ids(1)))
        waiting = [engine.submit(Request(ids(2))), engine.submit(Request(ids(3)))]
        assert engine.stats().num_waiting == 2
        with pytest.raises(QueueFull) as refusal:
            engine.submit(Request(ids(4)))
        assert 1 <= refusal.value.retry_after_s <= 60
        model.gate.set()
        wait([held, *waiting])
        engine.submit(Request(ids(4))).result()


def test_request_that_leaves_the_queue_makes_room_in_it() -> None:
    model = FakeModel()
    with engine_of(model, max_queue=1, max_num_seqs=1) as engine:
        submit_held(engine, model, Request(ids(1), sampling=GREEDY))
        engine.submit(Request(ids(2))).cancel()
        model.gate.set()
        eventually(lambda: engine.stats().num_waiting == 0)
        engine.submit(Request(ids(3))).result()
        engine.submit(Request(ids(4))).result()


def test_cancelled_request_frees_its_blocks_while_it_runs_and_while_it_waits() -> None:
    model = FakeModel()
    with engine_of(model, max_num_seqs=1) as engine:
        running = submit_held(engine, model, Request(ids(*range(30)), sampling=SamplingParams(max_tokens=100)))
        waiting = engine.submit(Request(ids(1, 2)))
        assert running.cancel()
        assert waiting.cancel()
        model.gate.set()
        eventually(lambda: engine.stats().num_free_blocks == 64)
        with pytest.raises(CancelledError):
            running.result()
        engine.check_no_leaks()
        assert len(model.step_sizes) == 1  # not a step after the abort
        assert engine.submit(Request(ids(1, 2))).result().finish_reason == "prefill"


def test_deadline_is_kept_while_waiting_and_while_running() -> None:
    model = FakeModel()
    with engine_of(model, max_num_seqs=1) as engine:
        soon = time.monotonic() + 0.05
        endless = SamplingParams(max_tokens=150)
        running = submit_held(engine, model, Request(ids(1), sampling=endless, deadline=soon))
        waiting = engine.submit(Request(ids(2), deadline=soon))
        patient = engine.submit(Request(ids(3), deadline=soon + 60))
        time.sleep(0.1)
        model.gate.set()
        for late in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                late.result()
        patient.result()
        engine.check_no_leaks()


def test_short_request_behind_a_long_one_finishes_first() -> None:
    model = FakeModel()
    order: list[str] = []
    with engine_of(model, num_blocks=2000, max_model_len=4100, max_num_batched_tokens=64) as engine:
        long = submit_held(engine, model, Request(np.arange(4000, dtype=np.int32) % VOCAB_SIZE, (3999,)))
        short = engine.submit(Request(ids(*range(30)), (29,)))
        long.add_done_callback(lambda _: order.append("long"))
        short.add_done_callback(lambda _: order.append("short"))
        model.gate.set()
        wait([long, short])
        assert order == ["short", "long"]
        assert short.result().run_s < long.result().run_s / 5


def test_failed_step_fails_what_ran_and_the_engine_goes_on() -> None:
    model = FakeModel()
    model.failures = 1
    with engine_of(model, max_num_seqs=1) as engine:
        running = submit_held(engine, model, Request(ids(1, 2), sampling=GREEDY))
        waiting = engine.submit(Request(ids(3, 4), sampling=GREEDY))
        model.gate.set()
        with pytest.raises(EngineClosed) as failure:
            running.result()
        assert isinstance(failure.value.__cause__, ArithmeticError)
        assert waiting.result().token_ids == greedy_text(model, (3, 4), 5)
        stats = engine.stats()
        assert (stats.num_failed_steps, stats.num_failed_steps_in_a_row) == (1, 0)
        engine.check_no_leaks()


def test_close_fails_everything_pending_and_refuses_what_comes_later() -> None:
    model = FakeModel()
    engine = engine_of(model, max_num_seqs=1)
    running = submit_held(engine, model, Request(ids(1), sampling=GREEDY))
    waiting = engine.submit(Request(ids(2)))
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(10)
    for future in (running, waiting):
        with pytest.raises(EngineClosed):
            future.result(1)
    with pytest.raises(EngineClosed):
        engine.submit(Request(ids(3)))
    with pytest.raises(EngineClosed):
        engine.pin(ids(1, 2))
    engine.close()
    engine.check_no_leaks()


def test_engine_may_be_closed_and_asked_from_a_callback() -> None:
    engine = engine_of(FakeModel())
    answers: list[Future[RequestResult]] = []

    def ask_again(_: object) -> None:
        answers.append(engine.submit(Request(ids(5))))

    engine.submit(Request(ids(4))).add_done_callback(ask_again)
    eventually(lambda: bool(answers) and answers[0].done())
    answers[0].add_done_callback(lambda _: engine.close())
    engine.close()


def test_fault_of_the_engine_itself_fails_everything_loudly(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeModel()
    engine = engine_of(model)
    held = submit_held(engine, model, Request(ids(1, 2)))
    engine._blocks._free.pop()  # lose a block
    model.gate.set()
    held.result()
    eventually(lambda: "leaked" in caplog.text)
    eventually(lambda: not engine._loop._thread.is_alive())
    with pytest.raises(EngineClosed):
        engine.submit(Request(ids(1)))


def test_preempted_requests_give_the_same_text() -> None:
    model = FakeModel()
    prompts = [tuple(range(start, start + 6)) for start in range(4)]
    sampling = SamplingParams(max_tokens=20)
    with engine_of(model, num_blocks=10) as engine:
        futures = [engine.submit(Request(ids(*prompt), (5, 2), sampling=sampling)) for prompt in prompts]
        for prompt, future in zip(prompts, futures, strict=True):
            result = future.result()
            assert result.token_ids == greedy_text(model, prompt, 20)
            np.testing.assert_array_equal(result.logits[1], model.logits_after(ids(*prompt[:3])))
        assert engine.stats().num_preemptions > 0
        engine.check_no_leaks()


def test_counters_add_up() -> None:
    with engine_of(FakeModel()) as engine:
        for _ in range(2):
            engine.submit(Request(ids(*range(9)), sampling=GREEDY)).result()
        stats = engine.stats()
    assert (stats.total_prompt_tokens, stats.total_cached_tokens, stats.total_generated_tokens) == (18, 8, 10)


def test_many_threads_get_their_own_answers() -> None:
    model = FakeModel()
    wrong: list[int] = []

    def ask(number: int) -> None:
        prompt = (number, *range(number))
        result = engine.submit(Request(ids(*prompt), sampling=GREEDY)).result()
        if result.token_ids != greedy_text(model, prompt, 5):
            wrong.append(number)

    with engine_of(model) as engine:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: engine.stats().num_running == 0)
        engine.check_no_leaks()
    assert not wrong


@pytest.mark.parametrize("size", ["num_blocks", "max_model_len", "block_size", "max_num_seqs", "max_queue"])
def test_sizes_below_one_are_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=size):
        EngineConfig(**{"num_blocks": 1, "max_model_len": 1, size: 0})  # type: ignore[arg-type]


def test_window_beyond_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="positions"):
        engine_of(FakeModel(), max_model_len=10_001)


def test_refusal_by_decide_leaves_the_cache_as_it_is() -> None:
    def refuse(_: object) -> SamplingParams:
        raise VerdictError("low mass")

    with engine_of(FakeModel()) as engine:
        request = Request(ids(*range(9)), (8,), decide=refuse)
        with pytest.raises(VerdictError, match="low mass"):
            engine.submit(request).result()
        assert engine.submit(replace(request, decide=None)).result().num_cached_tokens == 8
