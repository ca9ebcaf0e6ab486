"""Server-sent events in the reference service's native form.

Knows: bytes of an event, padding, where white space of an answer may be cut.
Never knows: where the text comes from.

    data: {"response":"un","p":"abdefghij"}
    data: {"response":"safe","p":"abdefg"}
    data: {"response":"","usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}
    data: [DONE]
"""

import secrets
from collections.abc import Mapping

import msgspec

DONE = b"data: [DONE]\n\n"
PADDING = "abdefghijklmnoprstuvxyz1234567890" * 2  # the service's own string, letters missing and all
HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache"}


def event(payload: Mapping[str, object]) -> bytes:
    """One event; JSON never holds a bare newline, so one `data:` line is enough."""
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def text_event(delta: str) -> bytes:
    """A piece of the answer, padded at random so that an eavesdropper cannot tell tokens by their length."""
    return event({"response": delta, "p": PADDING[: 5 + secrets.randbelow(46)]})


class Trimmer:
    """Cuts white space from both ends of a text that arrives in pieces.

    Invariant: what `feed` returned so far, joined, is a prefix of the whole text's `strip()`, short of nothing but
    white space that may yet turn out to be the end.
    """

    def __init__(self) -> None:
        self._held = ""
        self._has_started = False

    def feed(self, delta: str) -> str:
        """Return what can be sent now.

        >>> trimmer = Trimmer(); [trimmer.feed(piece) for piece in (" ", "unsafe", chr(10), "O3 ")]
        ['', 'unsafe', '', '\\nO3']
        """
        text = self._held + delta if self._has_started else delta.lstrip()
        sent = text.rstrip()
        self._held = text[len(sent) :]
        self._has_started = self._has_started or bool(sent)
        return sent
