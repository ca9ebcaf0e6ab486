"""After any arrivals, steps, aborts, failures and pins: no block is lost, and every slot holds what it should.

The machine stands in for everything above and below the bookkeeping: it keeps the cache's contents as plain tokens,
copies and writes them as a step plan says, and reads every running sequence back through its block table.
"""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from guardhouse.engine.block_manager import BlockManager
from guardhouse.engine.scheduler import Chunk, Scheduler, StepPlan
from guardhouse.engine.sequence import Sequence

MAX_TOKENS = 24  # of a sequence

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=MAX_TOKENS - 4)  # two tokens: many common beginnings


class Bookkeeping(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(2, 14), block_size=st.integers(1, 5), seats=st.integers(1, 4), budget=st.integers(1, 30)
    )
    def start(self, num_blocks: int, block_size: int, seats: int, budget: int) -> None:
        self.block_size = block_size
        self.budget = budget
        self.scheduler = Scheduler(BlockManager(num_blocks, block_size), seats, budget)
        self.memory: list[int | None] = [None] * (num_blocks * block_size)
        self.unfinished: dict[int, Sequence] = {}
        self.to_pin: set[int] = set()
        self.num_submitted = 0
        self.wanted: dict[int, list[int]] = {}  # positions whose logits have not been delivered

    @rule(prompt=prompts, data=st.data())
    def submit(self, prompt: list[int], data: st.DataObject) -> None:
        wanted = data.draw(st.lists(st.integers(0, len(prompt) - 1), max_size=3))
        self._submit(prompt, wanted, wants_last=data.draw(st.booleans()))

    @rule(prompt=prompts)
    def submit_pin(self, prompt: list[int]) -> None:
        self.to_pin.add(self._submit(prompt, [], wants_last=True))

    @precondition(lambda self: self.scheduler.has_work)
    @rule()
    def step(self) -> None:
        plan = self._plan()
        for chunk in plan.chunks:
            self._write(chunk)
        for chunk in plan.chunks:
            self._read_back(chunk.sequence, chunk.sequence.num_computed + chunk.num_tokens)
            self._deliver(chunk)
        self.scheduler.end_copies(plan)

    @precondition(lambda self: self.scheduler.has_work)
    @rule()
    def fail_step(self) -> None:
        plan = self._plan()
        for chunk in plan.chunks[:1]:
            self._write(chunk)  # whatever was written by then
        for sequence in self.scheduler.running:
            self._remove(sequence)
        self.scheduler.end_copies(plan)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self._remove(self.unfinished[data.draw(st.sampled_from(sorted(self.unfinished)))])

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.scheduler.blocks.check_no_leaks(self.scheduler.running)

    @invariant()
    def running_sequences_read_their_own_tokens(self) -> None:
        for sequence in self.scheduler.running:
            self._read_back(sequence, sequence.num_computed)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.unfinished, "something never finished"
        self.scheduler.blocks.check_no_leaks()
        self.scheduler.blocks.check_idle()

    def _submit(self, prompt: list[int], wanted: list[int], *, wants_last: bool) -> int:
        sequence = Sequence(self.num_submitted, array("i", prompt), wanted, wants_last=wants_last)
        self.num_submitted += 1
        self.unfinished[sequence.id] = sequence
        self.wanted[sequence.id] = sorted(set(wanted))
        self.scheduler.add(sequence)
        return sequence.id

    def _plan(self) -> StepPlan:
        plan = self.scheduler.schedule()
        assert plan.chunks or plan.rejected
        assert sum(chunk.num_tokens for chunk in plan.chunks) <= self.budget
        assert all(chunk.num_tokens > 0 for chunk in plan.chunks)
        assert len({chunk.sequence.id for chunk in plan.chunks}) == len(plan.chunks)
        for sequence in plan.rejected:
            del self.unfinished[sequence.id]
        for copy in plan.copies:
            for offset in range(self.block_size):
                source = self.memory[copy.source * self.block_size + offset]
                self.memory[copy.target * self.block_size + offset] = source
        return plan

    def _slot(self, sequence: Sequence, position: int) -> int:
        return sequence.block_table[position // self.block_size] * self.block_size + position % self.block_size

    def _write(self, chunk: Chunk) -> None:
        start = chunk.sequence.num_computed
        for position in range(start, start + chunk.num_tokens):
            self.memory[self._slot(chunk.sequence, position)] = chunk.sequence.tokens[position]

    def _read_back(self, sequence: Sequence, num_tokens: int) -> None:
        found = [self.memory[self._slot(sequence, position)] for position in range(num_tokens)]
        assert found == list(sequence.tokens[:num_tokens])

    def _deliver(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        for position in chunk.row_positions:
            if position in self.wanted[sequence.id]:
                self.wanted[sequence.id].remove(position)
        self.scheduler.commit(chunk)
        if sequence.num_remaining:
            return
        assert not self.wanted[sequence.id], "wanted logits were never computed"
        if sequence.id in self.to_pin:
            self.scheduler.remove_pinned(sequence)
            del self.unfinished[sequence.id]
        elif sequence.wants_last and sequence.num_tokens < MAX_TOKENS:
            assert chunk.row_positions[-1] == sequence.num_tokens - 1
            sequence.tokens.append(sequence.num_tokens % 2)
        else:
            self._remove(sequence)

    def _remove(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        del self.unfinished[sequence.id]


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
