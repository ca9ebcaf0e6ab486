"""Events of a streamed answer."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.server.sse import DONE, KEEP_ALIVE, delta_event, event, kept_alive


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
    lengths = {len(str(payload(delta_event("safe"))["p"])) for _ in range(300)}
    assert min(lengths) >= 5
    assert max(lengths) <= 50
    assert len(lengths) > 20


def test_the_end_marker_is_what_clients_look_for() -> None:
    assert DONE == b"data: [DONE]\n\n"


def test_tool_calls_are_in_every_event_where_tools_were_offered() -> None:
    assert "tool_calls" not in payload(delta_event("safe"))
    assert payload(delta_event("safe", []))["tool_calls"] == []


class Broken(Exception):
    """Something went wrong."""


def collect(*events: bytes | float | Exception) -> list[bytes]:
    """What `kept_alive` makes of events, pauses (seconds) and errors, at 20 ms of patience."""

    async def source() -> AsyncGenerator[bytes, None]:
        for step in events:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, bytes):
                yield step
            else:
                raise step

    async def run() -> list[bytes]:
        return [event async for event in kept_alive(source(), 0.02, lambda error: type(error).__name__.encode())]

    return asyncio.run(run())


def test_a_silent_stream_gets_comments_and_loses_nothing() -> None:
    assert collect(b"a", b"b") == [b"a", b"b"]
    found = collect(0.1, b"a", 0.1, b"b")
    assert [event for event in found if event != KEEP_ALIVE] == [b"a", b"b"]
    assert found[0] == KEEP_ALIVE
    assert found[found.index(b"a") + 1] == KEEP_ALIVE


def test_an_error_is_raised_before_anything_was_sent_and_an_event_afterwards() -> None:
    with pytest.raises(Broken):
        collect(Broken())
    assert collect(b"a", Broken()) == [b"a", b"Broken"]
    assert collect(0.1, Broken())[-1] == b"Broken"


def test_a_reader_that_leaves_ends_the_source() -> None:
    ended: list[bool] = []

    async def source() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def leave() -> None:
        events = kept_alive(source(), 1.0, lambda error: b"")
        assert await anext(events) == b"a"
        await events.aclose()

    asyncio.run(leave())
    assert ended == [True]
