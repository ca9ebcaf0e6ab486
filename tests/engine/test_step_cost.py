"""What a step is expected to cost, and how much of it is handed out."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from guardhouse.engine.step_cost import MIN_TOKENS, StepBudget, StepCost

Seconds = st.floats(0, 1e-2)


def learnt(per_token_s: float, per_pair_s: float, fixed_s: float = 0.01, noise: float = 0.0) -> StepCost:
    cost, chance = StepCost(), random.Random(0)
    for _ in range(64):
        tokens, context = chance.randint(16, 512), chance.randint(0, 4000)
        seconds = fixed_s + per_token_s * tokens + per_pair_s * tokens * context
        cost.observe(tokens, tokens * context, seconds * (1 + noise * chance.uniform(-1, 1)))
    return cost


def test_costs_are_recovered_from_noisy_steps() -> None:
    cost = learnt(0.03, 2e-6, fixed_s=0.1, noise=0.1)
    assert 0.027 < cost.per_token_s < 0.033
    assert 1.5e-6 < cost.per_pair_s < 2.5e-6


def test_a_machine_that_becomes_slower_is_noticed_within_forty_steps() -> None:
    cost = learnt(0.001, 0.0)
    for _ in range(20):
        cost.observe(100, 0, 0.01 + 0.01 * 100)
        cost.observe(50, 0, 0.01 + 0.01 * 50)
    assert cost.seconds(100, 0) > 0.9 * 1.01


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10**8), st.floats(0, 1e4)), max_size=40))
def test_no_cost_is_ever_negative_or_undefined(steps: list[tuple[int, int, float]]) -> None:
    cost = StepCost()
    for step in steps:
        cost.observe(*step)
    assert cost.per_token_s >= 0
    assert cost.per_pair_s >= 0
    assert cost.seconds(100, 1000) >= 0


@given(Seconds, Seconds, st.integers(1, 512), st.integers(0, 8000), st.floats(0.001, 10), st.sampled_from([0.5, 1.0]))
def test_what_fits_is_within_the_time_or_the_floor_and_one_more_would_not_be(
    per_token_s: float, per_pair_s: float, max_tokens: int, context: int, target_s: float, share: float
) -> None:
    cost = StepCost()
    cost.is_known, cost.per_token_s, cost.per_pair_s = True, per_token_s, per_pair_s

    def seconds(tokens: float) -> float:
        return per_token_s * tokens + per_pair_s * (tokens * context + tokens * tokens / 2)

    fitting = StepBudget(cost, max_tokens, target_s).fitting(context, share)
    floor = min(MIN_TOKENS, max_tokens)
    assert 0 < fitting <= max_tokens
    assert seconds(fitting) <= share * target_s * (1 + 1e-9) or fitting <= floor
    assert fitting >= share * max_tokens or seconds(fitting + 1) > share * target_s * (1 - 1e-9)


def test_a_spent_budget_is_empty() -> None:
    cost = StepCost()
    cost.is_known, cost.per_token_s = True, 0.005
    budget = StepBudget(cost, 400, 1.0)
    assert budget.fitting(0) == 200
    budget.spend(200, 0)
    assert not budget
    assert budget.fitting(0) == 0


def test_a_step_of_unknown_cost_is_small_unless_it_may_take_for_ever() -> None:
    cost = StepCost()
    assert StepBudget(cost, 512, 1.0).fitting(0) == MIN_TOKENS
    assert StepBudget(cost, 100, 1.0).fitting(0) == 100
    assert StepBudget(cost, 512, math.inf).fitting(0) == 512
    cost.observe(4, 0, 1.0)  # says nothing of what a prompt costs
    assert StepBudget(cost, 512, 1.0).fitting(0) == MIN_TOKENS
    cost.observe(MIN_TOKENS, 0, 0.1)
    assert StepBudget(cost, 512, 1.0).fitting(0) == 512
