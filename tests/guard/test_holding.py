"""Text that is let through bit by bit."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.guard.holding import TextBlocked, released
from guardhouse.guard.verdict import Verdict


def verdict(flagged: bool) -> Verdict:
    score = float(flagged)
    return Verdict(flagged, score, 1.0, {"O1": score}, ("O1",) if flagged else (), "p", "assistant", 0.5, 1, 0, ())


PIECES = st.lists(st.text(alphabet="ab X", max_size=6), max_size=12)


@given(pieces=PIECES, hold=st.integers(1, 20))
def test_nothing_shows_that_was_not_part_of_a_safe_text(pieces: list[str], hold: int) -> None:
    judged: list[str] = []

    def judge(text: str) -> Verdict:
        judged.append(text)
        return verdict("X" in text)

    shown, whole, blocked = "", "".join(pieces), None
    try:
        for part in released(pieces, judge, hold):
            shown += part
            assert judged[-1] == shown
    except TextBlocked as error:
        blocked = error
    assert "X" not in shown
    assert whole.startswith(shown)
    if blocked is None:
        assert not whole[len(shown) :].strip()  # blanks at the end say nothing
    else:
        assert "X" in whole
        assert blocked.num_released == len(shown)


@given(pieces=PIECES.filter(lambda pieces: "X" not in "".join(pieces)), hold=st.integers(1, 20))
def test_few_judgements_are_needed(pieces: list[str], hold: int) -> None:
    judged: list[str] = []
    list(released(pieces, lambda text: judged.append(text) or verdict(False), hold))  # type: ignore[func-returns-value]
    assert len(judged) <= len("".join(pieces)) // hold + 1


def test_the_source_is_not_read_on_after_a_block() -> None:
    read: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("fine ", "X", "never"):
            read.append(piece)
            yield piece

    with pytest.raises(TextBlocked, match="blocked after 5 characters: unsafe O1"):
        list(released(pieces(), lambda text: verdict("X" in text), 1))
    assert read == ["fine ", "X"]
