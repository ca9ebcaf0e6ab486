"""Server-sent events in the reference service's native form.

Knows: bytes of an event, padding, comments that keep a silent line open.
Never knows: where the text comes from.

    data: {"response":"un","p":"abdefghij"}
    data: {"response":"safe","p":"abdefg"}
    data: {"response":"","usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}
    data: [DONE]
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"  # a comment: clients skip it
PADDING = "abdefghijklmnoprstuvxyz1234567890" * 2  # the service's own string, letters missing and all
HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


def event(payload: Mapping[str, object]) -> bytes:
    """One event; JSON never holds a bare newline, so one `data:` line is enough."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def delta_event(text: str, tool_calls: Sequence[Mapping[str, Any]] | None = None) -> bytes:
    """A part of the answer, padded at random so that an eavesdropper cannot tell tokens by their length.

    `tool_calls`: None where no tools were offered; else a list, even an empty one.
    """
    calls = {} if tool_calls is None else {"tool_calls": tool_calls}
    return event({"response": text, **calls, "p": PADDING[: 5 + secrets.randbelow(46)]})


async def kept_alive(
    events: AsyncGenerator[bytes, None], idle_s: float, error_event: Callable[[Exception], bytes]
) -> AsyncGenerator[bytes, None]:
    """The events, and a comment whenever none came for `idle_s`: proxies cut silent lines, and clients give up.

    An exception is raised as long as nothing was sent, so that it still gets a status; after that it becomes the last event.
    """
    has_begun = False
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            if (await asyncio.wait({pending}, timeout=idle_s))[0]:
                found = pending.result()
                if found is None:
                    return
                pending = asyncio.ensure_future(anext(events, None))
            else:
                found = KEEP_ALIVE
            has_begun = True
            yield found
    except Exception as error:
        if not has_begun:
            raise
        yield error_event(error)
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        await events.aclose()
