"""Whatever callers do in whatever order: right answers or the right error, every future done, every block back."""

from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import numpy as np
from fake_model import VOCAB_SIZE, FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.engine.engine import Engine, EngineConfig
from guardhouse.engine.request import Request, RequestResult, SamplingParams
from guardhouse.errors import ContextOverflow, DeadlineExceeded, EngineClosed, QueueFull


@dataclass(frozen=True)
class Submission:
    """A request from a small world of prompts, and what befalls it."""

    start: int  # prompts with one start have a common beginning
    length: int
    position: int
    max_tokens: int  # 0: a verdict
    fate: str

    def request(self) -> Request:
        token_ids = ((np.arange(self.length) * 7 + self.start) % VOCAB_SIZE).astype(np.int32)
        sampling = SamplingParams(max_tokens=self.max_tokens) if self.max_tokens else None
        deadline = 0.0 if self.fate == "late" else None
        decide = fail if self.fate == "decide fails" else None
        return Request(token_ids, (self.position % self.length,), sampling, decide=decide, deadline=deadline)


def fail(_: object) -> None:
    raise ZeroDivisionError


submissions = st.builds(
    Submission,
    start=st.integers(0, 1),
    length=st.integers(1, 60),
    position=st.integers(0, 59),
    max_tokens=st.sampled_from([0, 0, 1, 9]),
    fate=st.sampled_from(["served", "served", "served", "cancelled", "late", "decide fails", "step fails", "pinned"]),
)


@settings(max_examples=150, deadline=None)
@given(
    story=st.lists(submissions, max_size=25),
    num_blocks=st.integers(12, 60),
    block_size=st.sampled_from([1, 4, 7]),
    budget=st.sampled_from([1, 5, 64]),
    is_closed_early=st.booleans(),
)
def test_engine_under_fire(
    story: list[Submission], num_blocks: int, block_size: int, budget: int, is_closed_early: bool
) -> None:
    model = FakeModel()
    config = EngineConfig(
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=70,
        max_num_seqs=5,
        max_num_batched_tokens=budget,
        max_queue=15,
    )
    engine = Engine(model, config)
    submitted = [(submission, future) for submission in story if (future := submit(engine, model, submission))]
    if is_closed_early:
        engine.close()
    for submission, future in submitted:
        check(model, submission, future)
    engine.close()
    engine.check_no_leaks()
    assert engine.stats().num_running == engine.stats().num_waiting == 0


def submit(engine: Engine, model: FakeModel, submission: Submission) -> Future[RequestResult] | None:
    try:
        if submission.fate == "pinned":
            engine.pin(submission.request().token_ids[:9])
        future = engine.submit(submission.request())
    except (ContextOverflow, QueueFull, EngineClosed):
        return None
    if submission.fate == "cancelled":
        future.cancel()
    if submission.fate == "step fails":
        model.failures = 1
    return future


def check(model: FakeModel, submission: Submission, future: Future[RequestResult]) -> None:
    request = submission.request()
    try:
        result = future.result(30)
    except CancelledError:
        assert submission.fate == "cancelled"
    except DeadlineExceeded:
        assert submission.fate == "late"
    except ZeroDivisionError:
        assert submission.fate == "decide fails"
    except (EngineClosed, ContextOverflow):
        pass  # a step failed, the engine was closed, or pins took the blocks
    else:
        assert submission.fate not in {"late", "decide fails"}
        position = request.logit_positions[0]
        np.testing.assert_array_equal(result.logits[0], model.logits_after(request.token_ids[: position + 1]))
        tokens = request.token_ids.tolist()
        for token in result.token_ids:
            assert token == model.logits_after(np.array(tokens)).argmax()
            tokens.append(token)
        assert len(result.token_ids) == submission.max_tokens
