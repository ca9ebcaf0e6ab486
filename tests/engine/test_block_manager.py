"""The block manager shares only what is the same, and loses nothing."""

from array import array

import pytest

from guardhouse.engine.block_manager import BlockManager
from guardhouse.engine.sequence import Sequence


def sequence_of(*tokens: int, wanted: tuple[int, ...] = ()) -> Sequence:
    return Sequence(0, array("i", tokens), wanted, wants_last=True)


def compute(blocks: BlockManager, sequence: Sequence) -> None:
    sequence.advance(sequence.num_remaining)
    blocks.publish(sequence)


def run_and_free(blocks: BlockManager, *tokens: int) -> None:
    sequence = sequence_of(*tokens)
    assert blocks.allocate(sequence) is not None
    compute(blocks, sequence)
    blocks.free(sequence)


def test_lowest_numbered_block_is_handed_out_first() -> None:
    blocks = BlockManager(8, block_size=2)
    first, second = sequence_of(1, 2, 3), sequence_of(4, 5, 6)
    blocks.allocate(first)
    blocks.allocate(second)
    assert (list(first.block_table), list(second.block_table)) == ([0, 1], [2, 3])
    blocks.free(first)
    third = sequence_of(7)
    blocks.allocate(third)
    assert list(third.block_table) == [0]


def test_full_blocks_are_shared_once_computed() -> None:
    blocks = BlockManager(8, block_size=2)
    first, second = sequence_of(1, 2, 3, 4, 5), sequence_of(1, 2, 3, 4, 6)
    blocks.allocate(first)
    assert blocks.num_cached_tokens(second) == 0  # allocated is not computed
    compute(blocks, first)
    assert blocks.allocate(second) == []
    assert second.num_computed == 4
    assert first.block_table[:2] == second.block_table[:2]
    assert first.block_table[2] != second.block_table[2]
    blocks.check_no_leaks((first, second))


def test_equal_block_after_another_beginning_is_not_shared() -> None:
    blocks = BlockManager(8, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4, 5)
    assert blocks.num_cached_tokens(sequence_of(9, 2, 3, 4, 5)) == 0


def test_content_of_a_reused_parent_is_never_found() -> None:
    blocks = BlockManager(3, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4, 5)
    run_and_free(blocks, 6, 7, 8, 9, 10)  # takes all blocks over
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3, 4, 5)) == 0
    assert blocks.num_cached_tokens(sequence_of(6, 7, 3, 4, 5)) == 2
    blocks.check_no_leaks()


def test_last_token_is_always_computed() -> None:
    blocks = BlockManager(8, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4)
    again = sequence_of(1, 2, 3, 4)
    copies = blocks.allocate(again)
    assert again.num_computed == 3
    assert copies is not None
    assert [copy.target for copy in copies] == [again.block_table[1]]
    for copy in copies:
        blocks.end_copy(copy)
    blocks.check_no_leaks((again,))


@pytest.mark.parametrize(("wanted", "num_cached"), [((0,), 0), ((1,), 1), ((2, 4), 2), ((3,), 3), ((), 4)])
def test_tokens_from_the_first_wanted_one_on_are_computed(wanted: tuple[int, ...], num_cached: int) -> None:
    blocks = BlockManager(8, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4, 5)
    again = sequence_of(1, 2, 3, 4, 5, wanted=wanted)
    blocks.allocate(again)
    assert again.num_computed == num_cached


def test_copy_is_done_without_where_blocks_are_short() -> None:
    blocks = BlockManager(2, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4)
    again = sequence_of(1, 2, 3, 4)  # a copy would need a third block: its source may not be overwritten
    assert blocks.allocate(again) == []
    assert again.num_computed == 2
    blocks.check_no_leaks((again,))


def test_least_recently_used_cached_block_is_evicted_first_and_ends_before_beginnings() -> None:
    blocks = BlockManager(6, block_size=2)
    run_and_free(blocks, 1, 2, 3, 4, 5)
    run_and_free(blocks, 6, 7, 8, 9, 10)
    hog = sequence_of(11, 12, 13, 14, 15)  # two blocks are unlisted; the third is evicted
    blocks.allocate(hog)
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3, 4, 5)) == 2
    assert blocks.num_cached_tokens(sequence_of(6, 7, 8, 9, 10)) == 4


def test_refused_allocation_changes_nothing() -> None:
    blocks = BlockManager(3, block_size=2)
    run_and_free(blocks, 1, 2, 3)
    large = sequence_of(*range(1, 8))
    assert blocks.allocate(large) is None
    assert blocks.allocate(sequence_of(1, 2), num_spare=3) is None
    assert blocks.num_free_blocks == 3
    blocks.check_no_leaks()


def test_pinned_prefix_survives_every_eviction_and_its_tail_is_copied() -> None:
    blocks = BlockManager(6, block_size=2)
    prefix = sequence_of(1, 2, 3)
    blocks.allocate(prefix)
    compute(blocks, prefix)
    blocks.pin(prefix)
    for start in range(10, 50, 7):
        run_and_free(blocks, *range(start, start + 7))
    request = sequence_of(1, 2, 3, 4)
    copies = blocks.allocate(request)
    assert request.num_computed == 3
    assert copies is not None
    assert (copies[0].source, copies[0].target) == (1, request.block_table[1])
    assert request.block_table[0] == 0
    blocks.end_copy(copies[0])
    blocks.free(request)
    blocks.check_no_leaks()
    blocks.check_idle()
    assert blocks.num_pinned_blocks == 2


def test_pin_takes_over_an_equal_block_that_was_published_first() -> None:
    blocks = BlockManager(8, block_size=2)
    first, prefix = sequence_of(1, 2, 9), sequence_of(1, 2, 3)
    blocks.allocate(first)
    blocks.allocate(prefix)
    compute(blocks, first)
    compute(blocks, prefix)
    assert first.block_table[0] != prefix.block_table[0]
    blocks.pin(prefix)
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3, 4)) == 3
    blocks.free(first)
    for start in range(10, 60, 5):
        run_and_free(blocks, *range(start, start + 5))
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3, 4)) == 3
    blocks.check_no_leaks()


def test_pin_is_found_though_its_predecessor_was_evicted_meanwhile() -> None:
    blocks = BlockManager(4, block_size=2)
    first, prefix = sequence_of(1, 2), sequence_of(1, 2, 3, 4)
    blocks.allocate(first)
    blocks.allocate(prefix)
    compute(blocks, first)
    compute(blocks, prefix)  # its second block follows first's block in the cache's book
    blocks.free(first)
    hog = sequence_of(5, 6, 7, 8)
    blocks.allocate(hog)  # evicts first's block
    blocks.free(hog)
    blocks.pin(prefix)
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3, 4, 5)) == 4
    blocks.check_no_leaks()


def test_pinning_twice_keeps_one_copy() -> None:
    blocks = BlockManager(8, block_size=2)
    for _ in range(2):
        prefix = sequence_of(1, 2, 3)
        for copy in blocks.allocate(prefix) or []:
            blocks.end_copy(copy)
        compute(blocks, prefix)
        blocks.pin(prefix)
    assert blocks.num_pinned_blocks == 2
    blocks.check_no_leaks()


def test_distrusted_blocks_are_not_found_again() -> None:
    blocks = BlockManager(8, block_size=2)
    sequence = sequence_of(1, 2, 3)
    blocks.allocate(sequence)
    compute(blocks, sequence)
    blocks.distrust(sequence)
    blocks.free(sequence)
    assert blocks.num_cached_tokens(sequence_of(1, 2, 3)) == 0
    blocks.check_no_leaks()


def test_leak_is_noticed() -> None:
    blocks = BlockManager(4, block_size=2)
    blocks.allocate(sequence_of(1, 2, 3))
    with pytest.raises(RuntimeError, match="leaked"):
        blocks.check_idle()
    with pytest.raises(RuntimeError, match="owners"):
        blocks.check_no_leaks()
