"""Decide which sequences run in the next step, and with how many tokens.

Knows: token counts, free blocks, order of arrival, what a token is expected to cost.
Never knows: tensors, devices, safety, text.

Policy, in this order, until the step's budget is spent (`step_cost.py`: tokens, and the time that they will take):

1. Sequences that lack a single token (all that decode), oldest first. When one needs a block and none is free, the
   newest running sequence is preempted: its blocks are freed and it waits to be computed again.
2. The oldest unfinished prompt is promised half of what is left, so no prompt starves.
3. The other prompts, fewest remaining tokens first (then oldest first), so a short one passes a long one.
4. What they leave over goes to the oldest prompt as well.

A prompt gets all its blocks with its first chunk, and only when a chunk is due: of two prompts with a common prefix
that arrive together, the second may still find what the first computed. While the oldest prompt of all waits for
blocks, no other prompt gets any, so a large one is not starved of blocks by small ones.
"""

import math
from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter

from guardhouse.engine.block_manager import BlockManager, Copy
from guardhouse.engine.sequence import Sequence
from guardhouse.engine.step_cost import StepBudget, StepCost

arrival = attrgetter("id")
root_content = attrgetter("sequence.root_content")
expected_remaining = attrgetter("num_expected_remaining")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `num_tokens` tokens of a sequence, computed in one step."""

    sequence: Sequence
    num_tokens: int
    row_positions: list[int]  # ascending positions in this chunk whose logits are needed


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the next step does. Copies come first."""

    chunks: list[Chunk] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    rejected: list[Sequence] = field(default_factory=list)  # they do not fit even alone; they have left the scheduler

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_pairs(self) -> int:
        """(new token, token it attends to), before any of it is computed."""
        return sum(
            chunk.num_tokens * chunk.sequence.num_computed + chunk.num_tokens * (chunk.num_tokens + 1) // 2
            for chunk in self.chunks
        )


class Scheduler:
    """Owns every unfinished sequence. Invariant: exactly the running ones own blocks."""

    def __init__(
        self, blocks: BlockManager, max_num_seqs: int, max_num_batched_tokens: int, target_step_s: float = math.inf
    ) -> None:
        self.blocks = blocks
        self.cost = StepCost()
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._target_step_s = target_step_s
        self._waiting: list[Sequence] = []  # both lists in order of arrival
        self._running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def running(self) -> tuple[Sequence, ...]:
        return tuple(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence) -> None:
        sequence.num_expected_cached = self.blocks.num_cached_tokens(sequence)
        insort(self._waiting, sequence, key=arrival)

    def remove(self, sequence: Sequence) -> None:
        """Drop a finished, failed or aborted sequence and free its blocks."""
        if sequence in self._running:
            self._running.remove(sequence)
            self.blocks.free(sequence)
        else:
            self._waiting.remove(sequence)

    def remove_pinned(self, sequence: Sequence) -> None:
        """Drop a sequence whose tokens are all computed, and pin its blocks."""
        self._running.remove(sequence)
        self.blocks.pin(sequence)

    def schedule(self) -> StepPlan:
        """Plan the next step. The plan is empty only if nothing is left to run (apart from what was rejected)."""
        plan = StepPlan()
        budget = StepBudget(self.cost, self._max_num_batched_tokens, self._target_step_s)
        self._schedule_decodes(plan, budget)
        if budget:
            self._schedule_prefills(plan, budget)
        plan.chunks.sort(key=root_content)  # an adapter's rows side by side: fewer, larger products
        if not self._running and self._waiting:  # all blocks that are not pinned are free, and still too few
            plan.rejected.append(self._waiting.pop(0))
        return plan

    def commit(self, chunk: Chunk) -> None:
        """Note that a chunk was computed."""
        chunk.sequence.advance(chunk.num_tokens)
        self.blocks.publish(chunk.sequence)

    def end_copies(self, plan: StepPlan) -> None:
        """Let go of the copied blocks, whether or not the step succeeded."""
        for copy in plan.copies:
            self.blocks.end_copy(copy)

    def _schedule_decodes(self, plan: StepPlan, budget: StepBudget) -> None:
        for sequence in [sequence for sequence in self._running if sequence.num_remaining == 1]:
            if not budget:
                break
            if not sequence.block_table:  # preempted by an older one in this very loop
                continue
            if self._grow(sequence, plan):
                budget.spend_decode(sequence.num_computed)
                _add_chunk(plan, sequence, 1)

    def _grow(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Find a block for the newest token, at the cost of the newest sequences. False if it was itself taken off."""
        while not self.blocks.grow(sequence):
            if len(self._running) == 1:
                self.remove(sequence)
                plan.rejected.append(sequence)
                return False
            newest = self._running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.remove(sequence)
        self.add(sequence)
        self.num_preemptions += 1

    def _schedule_prefills(self, plan: StepPlan, budget: StepBudget) -> None:
        prompts = [sequence for sequence in self._running if sequence.num_remaining > 1]
        num_spare = len(self._running) - len(prompts)  # a block for the next token of each that decodes
        waiting = self._waiting.copy()
        if waiting and (not prompts or waiting[0].id < prompts[0].id):
            if self._admit(waiting[0], plan, num_spare):
                prompts.insert(0, waiting.pop(0))
            else:
                waiting.clear()  # what becomes free is for the oldest prompt
        if not prompts:
            return
        oldest, *others = *prompts, *waiting
        promised = min(oldest.num_remaining, budget.fitting(oldest.num_computed, share=0.5))
        budget.spend(promised, oldest.num_computed)
        is_full = False
        for sequence in sorted(others, key=expected_remaining):
            if not budget:
                break
            if not sequence.block_table and (is_full or not self._admit(sequence, plan, num_spare)):
                is_full = True
                continue
            _add_chunk(plan, sequence, budget.fitting(sequence.num_computed), budget)
        left = budget.fitting(oldest.num_computed + promised)
        _add_chunk(plan, oldest, promised + left)

    def _admit(self, sequence: Sequence, plan: StepPlan, num_spare: int) -> bool:
        """Move a waiting sequence to the running ones, if there is a seat and blocks for all its tokens."""
        if len(self._running) >= self._max_num_seqs:
            return False
        copies = self.blocks.allocate(sequence, num_spare)
        if copies is None:
            return False
        plan.copies.extend(copies)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = sequence.num_computed
        self._waiting.remove(sequence)
        insort(self._running, sequence, key=arrival)
        return True


def _add_chunk(plan: StepPlan, sequence: Sequence, max_tokens: int, budget: StepBudget | None = None) -> None:
    """Without `budget`, the tokens were spent before."""
    num_tokens = min(max_tokens, sequence.num_remaining)
    if not num_tokens:
        return
    if budget is not None:
        budget.spend(num_tokens, sequence.num_computed)
    plan.chunks.append(Chunk(sequence, num_tokens, sequence.row_positions(num_tokens)))
