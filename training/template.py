"""Cut the chat template into ids once, so that conversations are spliced, not rendered.

Knows: the template's fixed parts and the ids of an answer.
Never knows: tensors, data sets.

    head                                   content   joiner            content   tail
    [INST] Task: ... CONVERSATION>\n\nUser:  How ..?   \n\nAgent:         Sorry ..  \n\n<END CONVERSATION> ... [/INST]
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from training.tokenizer import chat_template

ROLES = ("user", "assistant")
CODES = ("O1", "O2", "O3", "O4", "O5", "O6")
_MARK = "§"  # stands for a message while the template is cut; no word of the template holds it


@dataclass(frozen=True, slots=True)
class Frame:
    """The fixed ids of prompts with one or more messages whose last is of one role."""

    head: tuple[int, ...]  # all up to the first content
    joiners: tuple[tuple[int, ...], tuple[int, ...]]  # between contents: before an Agent turn, before a User turn
    tail: tuple[int, ...]  # after the last content

    def splice(self, contents: Sequence[Sequence[int]]) -> list[int]:
        """Ids after the head: contents, joiners between them, tail."""
        ids = list(contents[0])
        for index, content in enumerate(contents[1:]):
            ids += self.joiners[index % 2]
            ids += content
        return ids + list(self.tail)


@dataclass(frozen=True, slots=True)
class AnswerIds:
    """The pieces of an answer: `safe`, or `unsafe`, newline, `O`, digit."""

    safe: int
    unsafe: int
    newline: int
    letter: int
    comma: int
    digits: tuple[int, ...]  # of O1 .. O6, in this order
    end: int

    def encode(self, codes: Sequence[str]) -> list[int]:
        """No codes: safe. Else the codes in order, without spaces."""
        if not codes:
            return [self.safe, self.end]
        ids = [self.unsafe, self.newline]
        for code in sorted(codes):
            ids += [self.letter, self.digits[CODES.index(code)], self.comma]
        return [*ids[:-1], self.end]


def render(contents: Sequence[str]) -> str:
    """A whole prompt as text, by the template itself."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    messages = [{"role": ROLES[index % 2], "content": content} for index, content in enumerate(contents)]
    return environment.from_string(chat_template()).render(messages=messages)


def cut_frames(tokenizer: Tokenizer) -> dict[str, Frame]:
    """One frame per judged role."""
    mark = tokenizer.encode(_MARK, add_special_tokens=False).ids
    frames = {}
    for role, num_messages in (("user", 3), ("assistant", 4)):
        ids = tokenizer.encode(render([_MARK] * num_messages), add_special_tokens=False).ids
        head, to_agent, to_user, *_, tail = _split(ids, mark)
        frames[role] = Frame(head, (to_agent, to_user), tail)
    return frames


def answer_ids(tokenizer: Tokenizer) -> AnswerIds:
    """Look the pieces up; the tokenizer's training has made sure that they exist."""
    return AnswerIds(
        safe=tokenizer.token_to_id("▁safe"),
        unsafe=tokenizer.token_to_id("▁unsafe"),
        newline=tokenizer.token_to_id("<0x0A>"),
        letter=tokenizer.token_to_id("O"),
        comma=tokenizer.token_to_id(","),
        digits=tuple(tokenizer.token_to_id(code[1]) for code in CODES),
        end=tokenizer.token_to_id("</s>"),
    )


def _split(ids: Sequence[int], mark: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut `ids` at every occurrence of `mark`."""
    parts, start, position = [], 0, 0
    while position < len(ids):
        if list(ids[position : position + len(mark)]) == list(mark):
            parts.append(tuple(ids[start:position]))
            position += len(mark)
            start = position
        else:
            position += 1
    return [*parts, tuple(ids[start:])]


def _raise(message: str) -> None:
    raise ValueError(message)
