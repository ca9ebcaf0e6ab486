"""Spliced ids are the template's own ids, whatever the text."""

import random
from pathlib import Path

import pytest
from checkpoints import GUARD_TEMPLATE, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.errors import CheckpointError, PolicyError
from guardhouse.guard.conversation import Turn
from guardhouse.guard.policy import Category, Policy
from guardhouse.guard.prompt import FrameStore, PromptFrame
from guardhouse.guard.verdict import find_answer_ids
from guardhouse.model.tokenizer import Tokenizer

FRAGMENTS = [
    "hello", " ", "\n", "\n\n", "User:", "Agent: hi", "[/INST]", "[INST]", "<END CONVERSATION>", "🙂", "\u202e",
    "\u200b", "é",
    "日本語", "O1: x", "\t", "\x00", "a" * 40, "don't", "1234", "▁", "#", "</", "INST", "safe", "unsafe\nO3",
]  # fmt: skip


@pytest.fixture(scope="module")
def llama_guard(shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / "llamaguard-7b")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_checkpoint(tmp_path_factory.mktemp("guard"), template=GUARD_TEMPLATE))


def rendered_ids(tokenizer: Tokenizer, contents: list[str]) -> list[int]:
    """The oracle: render the whole conversation, then cut it into tokens."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]
    return tokenizer.encode(tokenizer.render(messages))


def spliced_ids(frame: PromptFrame, contents: list[str]) -> list[int]:
    turns = [Turn("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]
    return frame.ids(turns)


def test_llama_guard_7b_has_830_ids_before_and_64_behind(llama_guard: Tokenizer) -> None:
    frames = FrameStore(llama_guard)
    for role in ("user", "assistant"):
        frame = frames.frame(role)
        assert (len(frame.head), len(frame.tail)) == (830, 64)
        assert frame.joiners == {"user": (13, 13, 2659, 29901), "assistant": (13, 13, 19661, 29901)}
    assert frames.frame("user").head != frames.frame("assistant").head
    assert frames.default_policy.codes == ("O1", "O2", "O3", "O4", "O5", "O6")


def test_llama_guard_7b_answers_with_the_known_ids(llama_guard: Tokenizer) -> None:
    answers = find_answer_ids(llama_guard, FrameStore(llama_guard).default_policy)
    assert (answers.safe, answers.unsafe, answers.forced) == (9109, 25110, (25110, 13, 29949))
    assert answers.codes["O3"] == 29941


def test_thousands_of_random_texts_splice_exactly_on_llama_guard_7b(llama_guard: Tokenizer) -> None:
    chance = random.Random(7)
    frames = FrameStore(llama_guard)
    for _ in range(2000):
        contents = [
            "".join(chance.choices(FRAGMENTS, k=chance.randint(1, 12))) + "." for _ in range(chance.randint(1, 3))
        ]
        frame = frames.frame("assistant" if len(contents) % 2 == 0 else "user")
        assert spliced_ids(frame, contents) == rendered_ids(llama_guard, contents)


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=3))
def test_any_text_splices_exactly(small: Tokenizer, contents: list[str]) -> None:
    frame = FrameStore(small).frame("assistant" if len(contents) % 2 == 0 else "user")
    assert spliced_ids(frame, contents) == rendered_ids(small, contents)


def test_special_tokens_in_a_text_stay_text(small: Tokenizer) -> None:
    ids = spliced_ids(FrameStore(small).frame("user"), ["</s><s>"])
    assert not {small.bos_token_id, *small.eos_token_ids} & set(ids)


def test_a_policy_replaces_what_stands_between_the_markers(small: Tokenizer) -> None:
    policy = Policy("shop", (Category("O1", "Weapons"), Category("O2", "Refunds")))
    frames = FrameStore(small)
    head = small.decode(list(frames.frame("user", policy).head))
    assert "O1: Weapons." in head
    assert "O2: Refunds." in head
    assert frames.frame("user", policy).tail == frames.frame("user").tail


def test_codes_that_begin_alike_are_refused(small: Tokenizer) -> None:
    policy = Policy("many", tuple(Category(f"O{number}", "x") for number in range(1, 12)))
    with pytest.raises(PolicyError, match="O1 and O10"):
        find_answer_ids(small, policy)


def test_a_template_without_category_markers_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ 'User: ' if m.role == 'user' else 'Agent: ' }}{{ m.content }}\n\n{% endfor %}"
    with pytest.raises(CheckpointError):
        FrameStore(Tokenizer.load(write_checkpoint(tmp_path, template=template)))
