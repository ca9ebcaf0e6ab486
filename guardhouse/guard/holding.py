"""Let a text that is still being written pass bit by bit, each bit once it is known to be safe.

Knows: pieces of text, a function that judges all of it so far.
Never knows: where the pieces come from, who reads them.
"""

from collections.abc import Callable, Iterable, Iterator

from guardhouse.errors import GuardhouseError
from guardhouse.guard.verdict import Verdict

HOLD_CHARS = 160  # about forty tokens: few enough to read on without a wait, enough to mean something


class TextBlocked(GuardhouseError):
    """The text became unsafe. What was let through before stays before it; the rest never was."""

    def __init__(self, verdict: Verdict, num_released: int) -> None:
        super().__init__(f"blocked after {num_released} characters: {verdict.text.replace(chr(10), ' ')}")
        self.verdict = verdict
        self.num_released = num_released


def released(pieces: Iterable[str], judge: Callable[[str], Verdict], hold_chars: int = HOLD_CHARS) -> Iterator[str]:
    """Yield the text in parts of at least `hold_chars`, each judged together with all before it. Raises TextBlocked.

    No character is yielded that was not part of a text found safe.
    """
    text, num_released = "", 0
    for piece in pieces:
        text += piece
        if len(text) - num_released >= hold_chars:
            yield _judged(text, num_released, judge)
            num_released = len(text)
    if text[num_released:].strip():
        yield _judged(text, num_released, judge)


def _judged(text: str, num_released: int, judge: Callable[[str], Verdict]) -> str:
    verdict = judge(text)
    if verdict.flagged:
        raise TextBlocked(verdict, num_released)
    return text[num_released:]
