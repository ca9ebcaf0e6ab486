"""Generated token ids -> text, piece by piece.

Knows: that one character may take several tokens, and that an answer's outer whitespace is trimmed.
Never knows: what the text says, who listens.
"""

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
