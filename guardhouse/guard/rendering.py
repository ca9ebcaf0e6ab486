"""A prompt as people read it: which text the guard sees, part by part, and what each part costs.

Knows: how a layout's text and a frame's ids belong together.
Never knows: requests, verdicts, HTTP.

    head                     content   joiner     content     tail
    [INST] Task … User:      hello     ↵↵Agent:   hi there    ↵↵ <END …> … [/INST]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from guardhouse.guard.conversation import Role, Turn
from guardhouse.guard.policy import Policy
from guardhouse.guard.prompt import Layout, PromptFrame

PartKind = Literal["head", "content", "joiner", "tail"]


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the prompt. Whitespace on its edges may be counted with the neighbour, as the tokenizer fuses it."""

    kind: PartKind
    text: str
    num_tokens: int
    role: Role | None = None  # who speaks; None in what belongs to nobody


@dataclass(frozen=True, slots=True)
class Rendering:
    """The whole prompt; `text` and `num_tokens` are exactly what a judgement of these turns reads.

    >>> guard.render("Hi").parts[1]
    Part(kind='content', text='Hi', num_tokens=1, role='user')
    """

    policy: Policy
    role: Role  # of the judged turn
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)

    @property
    def num_tokens(self) -> int:
        return sum(part.num_tokens for part in self.parts)


def render_parts(layout: Layout, frame: PromptFrame, turns: Sequence[Turn]) -> Rendering:
    """Text from the layout, counts from the frame; the two were proven equal when the frame was cut."""
    first = turns[0].role
    parts = [Part("head", layout.head + layout.labels[first], len(frame.starts[first]))]
    for number, turn in enumerate(turns):
        if number:
            parts.append(Part("joiner", layout.gap + layout.labels[turn.role], len(frame.joiners[turn.role])))
        content = turn.content.strip()
        parts.append(Part("content", content, len(frame.content_ids(content)), turn.role))
    parts.append(Part("tail", layout.tail, len(frame.tail)))
    return Rendering(frame.policy, frame.role, tuple(parts))
