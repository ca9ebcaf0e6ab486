"""The scheduler's policy, one claim at a time."""

import math
from array import array

import pytest

from guardhouse.engine.block_manager import BlockManager
from guardhouse.engine.scheduler import Scheduler, StepPlan
from guardhouse.engine.sequence import Sequence
from guardhouse.engine.step_cost import MIN_TOKENS


def scheduler_of(
    *, num_blocks: int = 5000, budget: int = 100, max_num_seqs: int = 64, target_step_s: float = math.inf
) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, block_size=4), max_num_seqs, budget, target_step_s)


def add(scheduler: Scheduler, sequence_id: int, num_tokens: int, first_token: int | None = None) -> Sequence:
    """A prompt of its own, unless `first_token` says where its tokens start."""
    start = 10_000 * sequence_id if first_token is None else first_token
    sequence = Sequence(sequence_id, array("i", range(start, start + num_tokens)), wants_last=True)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler) -> dict[int, int]:
    """Run one step; finished prompts go on to decode. Returns how many tokens each sequence got."""
    plan = scheduler.schedule()
    scheduler.end_copies(plan)
    for chunk in plan.chunks:
        scheduler.commit(chunk)
        if not chunk.sequence.num_remaining:
            chunk.sequence.tokens.append(7)
    return chunk_sizes(plan)


def chunk_sizes(plan: StepPlan) -> dict[int, int]:
    return {chunk.sequence.id: chunk.num_tokens for chunk in plan.chunks}


def test_decodes_come_before_prompts() -> None:
    scheduler = scheduler_of(budget=10)
    add(scheduler, 0, 10)
    assert step(scheduler) == {0: 10}
    add(scheduler, 1, 30)
    assert step(scheduler) == {0: 1, 1: 9}


def test_short_prompts_pass_a_long_one_which_still_gets_half() -> None:
    scheduler = scheduler_of(budget=100)
    add(scheduler, 0, 4000)
    assert step(scheduler) == {0: 100}
    for sequence_id in range(1, 6):
        add(scheduler, sequence_id, 30)
    assert step(scheduler) == {0: 50, 1: 30, 2: 20}
    assert step(scheduler) == {1: 1, 2: 10, 3: 30, 4: 9, 0: 50}  # 1 decodes; 2 has least to do


def test_shortest_of_many_long_prompts_goes_first() -> None:
    scheduler = scheduler_of(budget=100)
    for sequence_id, num_tokens in enumerate([4000, 4000, 4000, 20]):
        add(scheduler, sequence_id, num_tokens)
    assert step(scheduler) == {3: 20, 1: 30, 0: 50}


def test_long_prompt_finishes_under_an_endless_stream_of_short_ones() -> None:
    scheduler = scheduler_of(budget=100)
    long = add(scheduler, 0, 1000)
    for number in range(1, 25):
        short = add(scheduler, number, 80)
        step(scheduler)
        if not scheduler.running:
            break
        for sequence in scheduler.running:
            if sequence.num_remaining == 1 and sequence is not long:
                scheduler.remove(sequence)
        assert short.num_tokens
    assert long.num_tokens > 1000  # it has begun to decode


def learn(scheduler: Scheduler, *, per_token_s: float, per_pair_s: float = 0.0) -> None:
    """As if steps of these costs had been measured."""
    for tokens, context in [(20, 0), (100, 0), (20, 1000), (100, 1000), (50, 4000), (40, 100)]:
        pairs = tokens * context
        scheduler.cost.observe(tokens, pairs, per_token_s * tokens + per_pair_s * pairs)


def test_a_step_is_filled_by_time_and_no_newcomer_waits_longer() -> None:
    scheduler = scheduler_of(budget=512, target_step_s=1.0)
    learn(scheduler, per_token_s=0.005)
    add(scheduler, 0, 4000)
    assert step(scheduler) == {0: pytest.approx(200, abs=2)}
    add(scheduler, 1, 30)
    assert step(scheduler) == {0: pytest.approx(170, abs=2), 1: 30}


def test_tokens_far_into_a_long_prompt_cost_more_so_fewer_fit() -> None:
    scheduler = scheduler_of(budget=1024, target_step_s=8.0)
    learn(scheduler, per_token_s=0.01, per_pair_s=1e-5)
    add(scheduler, 0, 5000)
    sizes = [step(scheduler)[0] for _ in range(12)]
    assert sizes == sorted(sizes, reverse=True)
    assert 560 < sizes[0] < 700 > 2 * sizes[-1] > 2 * MIN_TOKENS


def test_a_slow_model_still_gets_enough_tokens_for_its_weights_to_be_worth_reading() -> None:
    scheduler = scheduler_of(budget=512, target_step_s=1.0)
    learn(scheduler, per_token_s=1.0)
    add(scheduler, 0, 4000)
    assert step(scheduler) == {0: MIN_TOKENS}


def test_costly_decodes_do_not_starve_a_prompt() -> None:
    scheduler = scheduler_of(budget=200, target_step_s=1.0)
    for sequence_id in range(10):
        add(scheduler, sequence_id, 5)
    step(scheduler)
    learn(scheduler, per_token_s=1.0)
    add(scheduler, 10, 500)
    assert step(scheduler) == {**dict.fromkeys(range(10), 1), 10: MIN_TOKENS}


def test_budget_is_never_exceeded_and_always_used() -> None:
    scheduler = scheduler_of(budget=7)
    for sequence_id in range(5):
        add(scheduler, sequence_id, 13)
    for _ in range(9):
        assert sum(step(scheduler).values()) == 7


def test_no_more_sequences_run_than_allowed() -> None:
    scheduler = scheduler_of(max_num_seqs=2)
    for sequence_id in range(4):
        add(scheduler, sequence_id, 5)
    assert step(scheduler) == {0: 5, 1: 5}
    assert scheduler.num_waiting == 2


def test_newest_is_preempted_when_blocks_run_out_and_comes_back() -> None:
    scheduler = scheduler_of(num_blocks=4)
    old, new = add(scheduler, 0, 8), add(scheduler, 1, 7)
    assert step(scheduler) == {0: 8, 1: 7}
    assert step(scheduler) == {0: 1}  # old needs a third block: new gives its two up
    assert scheduler.num_preemptions == 1
    assert new.num_computed == 0
    assert new.num_tokens == 8  # its token is kept
    scheduler.remove(old)
    step(scheduler)
    assert new.num_tokens == 9
    scheduler.blocks.check_no_leaks(scheduler.running)


def test_sequence_that_outgrows_all_blocks_alone_is_rejected() -> None:
    scheduler = scheduler_of(num_blocks=2)
    sequence = add(scheduler, 0, 8)
    step(scheduler)
    plan = scheduler.schedule()
    assert plan.rejected == [sequence]
    assert not plan.chunks
    assert not scheduler.has_work
    scheduler.blocks.check_idle()


def test_prompt_that_does_not_fit_an_empty_cache_is_rejected() -> None:
    scheduler = scheduler_of(num_blocks=2)
    sequence = add(scheduler, 0, 9)
    assert scheduler.schedule().rejected == [sequence]
    assert not scheduler.has_work


def test_oldest_prompt_is_not_starved_of_blocks_by_small_ones() -> None:
    scheduler = scheduler_of(num_blocks=10)
    first = add(scheduler, 0, 20)
    step(scheduler)
    large = add(scheduler, 1, 36)  # needs 9 of 10 blocks; 5 are taken
    add(scheduler, 2, 4)
    assert step(scheduler) == {0: 1}  # 2 would fit, but what becomes free is for 1
    scheduler.remove(first)
    assert step(scheduler)[large.id] == 36


def test_while_the_oldest_prompt_waits_for_blocks_no_other_is_admitted() -> None:
    scheduler = scheduler_of(num_blocks=12, budget=4)
    add(scheduler, 0, 12)
    large, medium = add(scheduler, 1, 36), add(scheduler, 2, 16)
    for _ in range(6):
        assert step(scheduler) == {0: 2, 2: 2}
    small = add(scheduler, 3, 4)
    assert step(scheduler) == {0: 1, 2: 3}  # five blocks are free, large needs nine
    assert (large.num_computed, medium.num_computed, small.num_computed) == (0, 15, 0)


def test_a_block_stays_free_for_each_sequence_that_decodes() -> None:
    scheduler = scheduler_of(num_blocks=4)
    first = add(scheduler, 0, 8)
    step(scheduler)
    second = add(scheduler, 1, 4)
    third = add(scheduler, 2, 4)
    step(scheduler)  # the first has taken its third block by now
    assert first.num_computed == 9
    assert not second.block_table
    assert not third.block_table


def test_second_of_two_like_prompts_finds_what_the_first_computed() -> None:
    scheduler = scheduler_of(budget=40)
    add(scheduler, 0, 40, first_token=5)
    second = add(scheduler, 1, 40, first_token=5)
    assert step(scheduler) == {0: 20, 1: 20}  # together: nothing to share yet
    third = add(scheduler, 2, 40, first_token=5)
    while not third.block_table:
        step(scheduler)
    assert second.num_cached_tokens == 0
    assert third.num_cached_tokens == 39


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_smallest_budgets_finish_everything(budget: int) -> None:
    scheduler = scheduler_of(budget=budget)
    sequences = [add(scheduler, sequence_id, 5) for sequence_id in range(4)]
    for _ in range(100):
        step(scheduler)
        for sequence in scheduler.running:
            if sequence.num_tokens > 6:
                scheduler.remove(sequence)
    assert not scheduler.has_work
    assert all(sequence.num_tokens == 7 for sequence in sequences)
