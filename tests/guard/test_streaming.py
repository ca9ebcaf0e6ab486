"""Text that arrives token by token is the text of all tokens, and never half a character."""

import pytest
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from guardhouse.guard.streaming import REPLACEMENT, StopFinder, TextStream
from guardhouse.model.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_checkpoint(tmp_path_factory.mktemp("streaming")))


def stream_of(tokenizer: Tokenizer, token_ids: list[int]) -> tuple[list[str], str]:
    stream = TextStream(tokenizer)
    pieces = [*(stream.push(token_id) for token_id in token_ids), stream.finish()]
    return pieces, stream.text


def test_a_character_of_several_tokens_arrives_whole(tokenizer: Tokenizer) -> None:
    pieces, _ = stream_of(tokenizer, tokenizer.encode("a🙂b"))
    assert [piece for piece in pieces if piece] == ["a", "🙂", "b"]


def test_outer_whitespace_is_trimmed_and_inner_is_kept(tokenizer: Tokenizer) -> None:
    pieces, text = stream_of(tokenizer, tokenizer.encode(" \n unsafe\n  O1 \n"))
    assert "".join(pieces) == text == "unsafe\n  O1"


def test_bytes_that_never_become_a_character_show_at_the_end(tokenizer: Tokenizer) -> None:
    pieces, _ = stream_of(tokenizer, tokenizer.encode("a🙂")[:-1])
    assert "".join(pieces).startswith("a" + REPLACEMENT)


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_pieces_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    pieces, streamed = stream_of(tokenizer, token_ids)
    assert "".join(pieces) == streamed == tokenizer.decode(token_ids).strip()


@settings(deadline=None)
@given(token_ids=st.lists(st.integers(0, 300), max_size=40))
def test_any_tokens_at_all_give_pieces_that_make_up_the_text(tokenizer: Tokenizer, token_ids: list[int]) -> None:
    pieces, streamed = stream_of(tokenizer, token_ids)
    assert "".join(pieces) == streamed == streamed.strip()


@given(st.lists(st.text("abc", max_size=4), max_size=8), st.lists(st.text("abc", min_size=1, max_size=3), max_size=3))
def test_a_text_ends_before_its_first_stop_string_however_it_is_cut(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    end = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    finder = StopFinder(stops)
    shown = [finder.feed(piece) for piece in pieces]
    assert "".join([*shown, finder.rest()]) == text[:end]
    assert finder.is_stopped == any(stop in text for stop in stops)
