"""Generated token ids -> text, piece by piece.

Knows: that one character may take several tokens, that an answer's outer whitespace is trimmed, stop strings.
Never knows: what the text says, who listens.
"""

from collections.abc import Sequence

from guardhouse.model.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"  # what a decoder shows for bytes that are no whole character yet


class TextStream:
    """Invariant: the pieces handed out so far, joined, begin `text.strip()` of all tokens and end in no half character.

    Only the tokens since the last whole piece are decoded again, behind a few before them that fix the leading space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context_start = 0  # decoding starts here …
        self._shown_end = 0  # … and what these tokens gave is handed out already
        self._held = ""  # whitespace that is shown only if something follows it
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def push(self, token_id: int) -> str:
        """The text that this token completes; often "" in the middle of a character."""
        self._ids.append(token_id)
        return self._advance(is_last=False)

    def finish(self) -> str:
        """What was held back: bytes that never became a character show as U+FFFD."""
        return self._advance(is_last=True)

    def _advance(self, *, is_last: bool) -> str:
        shown = self._tokenizer.decode(self._ids[self._context_start : self._shown_end])
        text = self._tokenizer.decode(self._ids[self._context_start :])
        if not is_last and text.endswith(REPLACEMENT):
            return ""
        self._context_start, self._shown_end = self._shown_end, len(self._ids)
        return self._trim(text[len(shown) :])

    def _trim(self, text: str) -> str:
        text = self._held + text
        body = text.rstrip() if self._pieces else text.strip()
        self._held = text[len(text.rstrip()) :] if self._pieces or body else ""
        if body:
            self._pieces.append(body)
        return body


class StopFinder:
    """Ends a text before the first stop string in it.

    Invariant: what `feed` returned so far is all text before what may yet be the beginning of a stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_stopped = False

    def feed(self, piece: str) -> str:
        """What can be shown now; "" for ever once a stop string has come.

        >>> finder = StopFinder(["END"]); [finder.feed(piece) for piece in ("a E", "N", "o EN", "D b")]
        ['a ', '', 'ENo ', '']
        """
        if self.is_stopped:
            return ""
        text = self._held + piece
        found = [start for start in map(text.find, self._stops) if start >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        num_held = max((_num_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def rest(self) -> str:
        """What was held back and turned out to be text after all."""
        rest, self._held = self._held, ""
        return rest


def _num_begun(text: str, stop: str) -> int:
    """Characters at the end of `text` that are a beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
