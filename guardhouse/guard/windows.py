"""Cut a text that is too long for the model into overlapping windows. Nothing is ever left out.

Knows: characters, and a function that counts a text's tokens.
Never knows: models, policies, scores.
"""

from collections.abc import Callable

CHARACTERS_PER_TOKEN = 4  # first guess at a window's length; English under a 32k vocabulary has about that many
OVERLAP = 8  # an eighth of each window is seen again in the next, so that no short passage is torn apart


def cut_windows(text: str, max_tokens: int, count_tokens: Callable[[str], int]) -> list[tuple[int, int]]:
    """[start, end) of windows that cover every character of `text`, each of at most `max_tokens` tokens.

    >>> cut_windows("abcdefghij", 4, len)
    [(0, 4), (4, 8), (8, 10)]
    """
    assert max_tokens > 0, "a window must hold a token"
    windows: list[tuple[int, int]] = []
    start = end = 0
    while end < len(text):
        end = _fitting_end(text, start, max_tokens, count_tokens)
        windows.append((start, end))
        start = _word_start(text, start + 1, end - (end - start) // OVERLAP)
    return windows


def _fitting_end(text: str, start: int, max_tokens: int, count_tokens: Callable[[str], int]) -> int:
    end = min(len(text), start + max_tokens * CHARACTERS_PER_TOKEN)
    while (num_tokens := count_tokens(text[start:end])) > max_tokens and end - start > 1:
        end = start + max(1, min(end - start - 1, (end - start) * max_tokens // num_tokens))
    return end


def _word_start(text: str, earliest: int, latest: int) -> int:
    """The start of a word not after `latest`, if one is near; overlaps may grow by it, never shrink."""
    for position in range(latest, max(earliest, latest - 32), -1):
        if text[position - 1].isspace():
            return position
    return latest
