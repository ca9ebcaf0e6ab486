"""A real guard over labelled rows."""

from collections.abc import Iterator

import pytest

from guardhouse.config import Settings
from guardhouse.errors import EngineClosed
from guardhouse.evaluation.examples import Dataset, Example
from guardhouse.evaluation.scoring import score
from guardhouse.guard.conversation import Conversation, Turn
from guardhouse.guard.guard import Guard


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.load(settings=Settings(threads=1, max_queue=8)) as guard:
        yield guard


def dataset(*conversations: Conversation) -> Dataset:
    examples = [Example(f"x:{line}", line, one, is_unsafe=line % 2 == 0) for line, one in enumerate(conversations, 1)]
    return Dataset("x", "table", "d", examples, len(examples), {})


def said(text: str) -> Conversation:
    return Conversation((Turn("user", text),))


def test_every_row_gets_the_score_that_a_check_gives_it(guard: Guard) -> None:
    texts = [f"How do I bake {count} breads?" for count in range(100)]
    done: list[int] = []
    result = score(guard, dataset(*map(said, texts)), progress=done.append)
    assert result.scores.tolist() == [guard.check(text).score for text in texts]
    assert result.is_unsafe.sum() == 50
    assert result.categories["O1"][3] == guard.check(texts[3]).categories["O1"]
    assert done == list(range(1, 101))
    assert not result.unjudged


def test_a_row_that_cannot_be_judged_is_counted_and_costs_no_other(guard: Guard) -> None:
    too_long = Conversation((Turn("user", "word " * 20_000), Turn("assistant", "yes")))
    result = score(guard, dataset(said("a"), too_long, said("b")))
    assert result.unjudged == {"ContextOverflow": 1}
    assert [example.line for example in result.examples] == [1, 3]
    assert len(result.scores) == 2


def test_a_guard_that_fails_ends_the_run() -> None:
    guard = Guard.load(settings=Settings(threads=1))
    guard.close()
    with pytest.raises(EngineClosed):
        score(guard, dataset(said("a")))
