"""Log probabilities as OpenAI's chat and completions endpoints write them.

Knows: how single tokens read as text and as bytes.
Never knows: where the numbers come from.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from guardhouse.engine.request import Drawn
from guardhouse.model.tokenizer import Tokenizer

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
REPLACEMENT = "\ufffd"


class TokenTexts:
    """What each token adds to a text. Single tokens lose their leading space when decoded; behind another they keep it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer.encode("a")
        self._anchor_text = tokenizer.decode(self._anchor)

    def text(self, token_id: int) -> str:
        """Special tokens read as their name; a piece of a character as U+FFFD."""
        text = self._tokenizer.decode([*self._anchor, token_id])[len(self._anchor_text) :]
        return text or self._tokenizer.token(token_id)

    def bytes(self, token_id: int) -> list[int] | None:
        """UTF-8; None for a piece of a character that does not tell its bytes."""
        if piece := BYTE_PIECE.fullmatch(self._tokenizer.token(token_id)):
            return [int(piece[1], 16)]
        text = self.text(token_id)
        return None if REPLACEMENT in text else list(text.encode())


def visible(drawn: Sequence[Drawn], tokenizer: Tokenizer) -> Iterator[Drawn]:
    """Those that are part of the text: all but the end-of-text token."""
    return (one for one in drawn if one.token_id not in tokenizer.eos_token_ids)


def chat_logprobs(drawn: Sequence[Drawn], tokenizer: Tokenizer) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""
    texts = TokenTexts(tokenizer)

    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        return {"token": texts.text(token_id), "bytes": texts.bytes(token_id), "logprob": logprob}

    content = [
        {**entry(one.token_id, one.logprob), "top_logprobs": [entry(*pair) for pair in one.top]}
        for one in visible(drawn, tokenizer)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(drawn: Sequence[Drawn], tokenizer: Tokenizer, offset: int = 0) -> dict[str, Any]:
    """`choices[].logprobs` of a completion. `offset`: characters of the answer before these tokens."""
    texts = TokenTexts(tokenizer)
    shown = list(visible(drawn, tokenizer))
    tokens = [texts.text(one.token_id) for one in shown]
    if tokens and offset == 0:
        offset -= len(tokens[0]) - len(tokens[0].lstrip())  # an answer begins without white space
    offsets = []
    for token in tokens:
        offsets.append(max(0, offset))
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [one.logprob for one in shown],
        "top_logprobs": [{texts.text(token_id): logprob for token_id, logprob in one.top} for one in shown],
        "text_offset": offsets,
    }
