"""Events of a streamed answer."""

import json

from hypothesis import given
from hypothesis import strategies as st

from guardhouse.server.sse import DONE, Trimmer, event, text_event


def payload(data: bytes) -> dict[str, object]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    found = json.loads(data.removeprefix(b"data: "))
    assert isinstance(found, dict)
    return found


@given(st.text())
def test_an_event_is_one_line_whatever_the_text(text: str) -> None:
    data = event({"response": text})
    assert data.count(b"\n") == 2
    assert payload(data) == {"response": text}


def test_padding_has_many_lengths_between_5_and_50() -> None:
    lengths = {len(str(payload(text_event("safe"))["p"])) for _ in range(300)}
    assert min(lengths) >= 5
    assert max(lengths) <= 50
    assert len(lengths) > 20


def test_the_end_marker_is_what_clients_look_for() -> None:
    assert DONE == b"data: [DONE]\n\n"


@given(st.lists(st.text(alphabet=" \n\tab", max_size=4)))
def test_trimmed_pieces_join_to_the_trimmed_text(pieces: list[str]) -> None:
    trimmer = Trimmer()
    assert "".join(trimmer.feed(piece) for piece in pieces) == "".join(pieces).strip()
