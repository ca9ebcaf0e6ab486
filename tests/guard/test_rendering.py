"""A rendered prompt is the template's own text, and its counts are the ids that are judged."""

from pathlib import Path

import pytest
from checkpoints import GUARD_TEMPLATE, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.guard.conversation import Turn
from guardhouse.guard.policy import Category, Policy
from guardhouse.guard.prompt import FrameStore
from guardhouse.guard.rendering import Rendering, render_parts
from guardhouse.model.tokenizer import Tokenizer

CONTENTS = st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    return FrameStore(Tokenizer.load(write_checkpoint(tmp_path_factory.mktemp("guard"), template=GUARD_TEMPLATE)))


def turns_of(contents: list[str]) -> list[Turn]:
    return [Turn("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]


def rendered(frames: FrameStore, turns: list[Turn], policy: Policy | None = None) -> Rendering:
    frame = frames.frame(turns[-1].role, policy)
    return render_parts(frames.layout(frame.role, frame.policy), frame, turns)


@settings(max_examples=60, deadline=None)
@given(contents=CONTENTS)
def test_the_text_is_the_templates_and_the_count_is_that_of_the_ids(frames: FrameStore, contents: list[str]) -> None:
    turns = turns_of(contents)
    rendering = rendered(frames, turns)
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    assert rendering.text == frames.tokenizer.render(messages)
    assert rendering.num_tokens == len(frames.frame(turns[-1].role).ids(turns))


def test_parts_say_who_speaks_and_what_stands_between(frames: FrameStore) -> None:
    rendering = rendered(frames, turns_of(["Hi", "Hello!"]))
    assert [(part.kind, part.role) for part in rendering.parts] == [
        ("head", None),
        ("content", "user"),
        ("joiner", None),
        ("content", "assistant"),
        ("tail", None),
    ]
    assert [part.text for part in rendering.parts if part.kind == "content"] == ["Hi", "Hello!"]
    assert rendering.role == "assistant"


def test_another_policy_stands_in_the_head(frames: FrameStore) -> None:
    policy = Policy("shop", (Category("O1", "Spoons", "Should not\n- Bend spoons."),))
    rendering = rendered(frames, turns_of(["Hi"]), policy)
    assert "O1: Spoons.\nShould not\n- Bend spoons." in rendering.parts[0].text
    assert rendering.policy is policy


def test_llama_guard_7b_costs_830_and_64_tokens_around_the_text(shared_data: Path) -> None:
    rendering = rendered(FrameStore(Tokenizer.load(shared_data / "llamaguard-7b")), turns_of(["hi"]))
    assert [part.num_tokens for part in rendering.parts] == [830, 1, 64]
