"""A policy and a conversation as token ids, exactly as the checkpoint's own chat template has them.

Knows: how to cut a rendered template into head, turn labels, joiners and tail; how to splice a conversation back in.
Never knows: the template's words (they come with the checkpoint), logits, requests.

    head            label   content   gap   label    content     tail
    [INST] Task …   User:   hello     ↵↵    Agent:   hi there    ↵↵ <END …> … [/INST]
    └── starts["user"] ──┘            └ joiners["assistant"] ┘

Everything but the contents is tokenised once. Contents are tokenised without special-token parsing, so that `</s>` or
`<|eot_id|>` in them stays text, and spliced in between.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from os.path import commonprefix

from guardhouse.errors import CheckpointError, InputError, PolicyError
from guardhouse.guard.conversation import Role, Turn
from guardhouse.guard.policy import CATEGORY_BLOCK, Policy
from guardhouse.guard.verdict import AnswerIds, find_answer_ids
from guardhouse.model.tokenizer import Tokenizer

ROLES: tuple[Role, Role] = ("user", "assistant")
PLACEHOLDER = "placeholder"
# Where a template ends in this special token, the model itself writes a blank line before its answer (Llama Guard 2 and 3).
ANSWER_LEADS = {"<|end_header_id|>": "\n\n"}
PROBES = (
    "hello", "Is this ok?", "don't", "(a)", "1 + 1 = 2", "a\n\nb", "- item\n- item", "ends.", "ends:", "日本語", "é́", "🙂",
    "</", "<END", "User: hi", "[/INST]", "'", "_", "▁x▁", "\u200bx\u200b", "x\u202e", "#", "tab\there", "a  b", "!", "\x00",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """The rendered template as text, cut at its turns."""

    head: str  # all up to the first turn's label
    labels: Mapping[Role, str]
    gap: str  # from the end of a content to the next label
    tail: str

    def text(self, turns: Sequence[Turn]) -> str:
        """What the template would render for these turns, in any order of roles, were their contents stripped."""
        return self.head + self.gap.join(self.labels[turn.role] + turn.content for turn in turns) + self.tail

    def with_policy(self, policy: Policy) -> "Layout":
        """The same with another text between the category markers."""
        block = CATEGORY_BLOCK.search(self.head)
        if not block:
            raise PolicyError("this checkpoint's template has no category markers, so its policy cannot be replaced")
        return replace(self, head=self.head[: block.start("text")] + policy.text + self.head[block.end("text") :])


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """Token ids around the turns, for one policy and one role to judge.

    >>> frame.ids([Turn("user", "Hi")])  # == tokenised rendering of the template for that conversation
    """

    policy: Policy
    role: Role
    starts: Mapping[Role, tuple[int, ...]]  # by the first turn's role: head and label
    joiners: Mapping[Role, tuple[int, ...]]  # by the next turn's role: gap and label
    tail: tuple[int, ...]
    lead: str  # whitespace that this tokenizer wants encoded with a content rather than with the label before it
    trail: str  # … or with what comes after it
    answers: AnswerIds
    tokenizer: Tokenizer

    @property
    def head(self) -> tuple[int, ...]:
        """The pinned prefix: all that conversations opened by a user share."""
        return self.starts["user"]

    def content_ids(self, content: str) -> list[int]:
        return self.tokenizer.encode(self.lead + content.strip() + self.trail)

    def ids(self, turns: Sequence[Turn]) -> list[int]:
        """head, label, content, …, tail."""
        ids = list(self.starts[turns[0].role])
        for number, turn in enumerate(turns):
            if number:
                ids += self.joiners[turn.role]
            ids += self.content_ids(turn.content)
        return [*ids, *self.tail]


class FrameStore:
    """One tokenizer's frames, built on first use; the least recently used go first once there are more than `capacity`.

    Invariant: equal (policy, role) give equal frames, and every frame has passed the probes.
    """

    def __init__(self, tokenizer: Tokenizer, capacity: int = 32) -> None:
        self.tokenizer = tokenizer
        self._capacity = capacity
        self._layouts = {role: render_layout(tokenizer, role) for role in ROLES}
        self._frames: OrderedDict[tuple[Policy, Role], PromptFrame] = OrderedDict()
        self._lock = threading.Lock()
        self.default_policy = Policy.parse(self._category_block(), "default")

    @property
    def is_instruct(self) -> bool:
        """The template's prompts stand in [INST] … [/INST]."""
        return "[INST]" in self._layouts["user"].head

    def layout(self, role: Role, policy: Policy) -> Layout:
        """The prompt's text around the turns, with this policy between the category markers."""
        layout = self._layouts[role]
        return layout if policy.text == self.default_policy.text else layout.with_policy(policy)

    def frame(self, role: Role, policy: Policy | None = None) -> PromptFrame:
        """`policy` None: the checkpoint's own."""
        policy = policy or self.default_policy
        with self._lock:
            frame = self._frames.get((policy, role)) or self._build(role, policy)
            self._frames[policy, role] = frame
            self._frames.move_to_end((policy, role))
            if len(self._frames) > self._capacity:
                self._frames.popitem(last=False)
            return frame

    def _build(self, role: Role, policy: Policy) -> PromptFrame:
        is_default = policy.text == self.default_policy.text
        if not is_default and self.tokenizer.encode(policy.text) != self.tokenizer.encode_template(policy.text):
            raise PolicyError("the policy's text holds a special token of this checkpoint's tokenizer")
        return cut_frame(self.tokenizer, self.layout(role, policy), policy, role)

    def _category_block(self) -> str:
        block = CATEGORY_BLOCK.search(self._layouts["user"].head)
        if not block:
            raise CheckpointError("the chat template has no category markers: this is not a Llama Guard checkpoint")
        return block["text"]


def render_layout(tokenizer: Tokenizer, role: Role) -> Layout:
    """Render the template with placeholder turns, the last one by `role`, and cut it at them."""
    few, more = (_render_and_cut(tokenizer, number) for number in ((1, 3) if role == "user" else (2, 4)))
    first, to_agent, to_user, *_, tail = more
    for pieces in (few, more):
        if pieces != [first, *islice(cycle((to_agent, to_user)), len(pieces) - 2), tail]:
            raise CheckpointError("the chat template's frame changes with the number of turns")
    gap = commonprefix([to_agent, to_user])
    labels: dict[Role, str] = {"user": to_user.removeprefix(gap), "assistant": to_agent.removeprefix(gap)}
    if not first.endswith(labels["user"]) or not all(labels.values()):
        raise CheckpointError("the chat template does not label its turns alike")
    lead = next((text for end, text in ANSWER_LEADS.items() if tail.endswith(end)), "")
    return Layout(first.removesuffix(labels["user"]), labels, gap, tail + lead)


def cut_frame(tokenizer: Tokenizer, layout: Layout, policy: Policy, role: Role) -> PromptFrame:
    """The layout as ids. Which whitespace belongs to the contents is found by trial and proven by probes.

    SentencePiece with a dummy prefix turns "User:" + "hi" into what "User: hi" gives; byte-level tokenizers need " hi", and
    those that fuse ".\\n\\n" into one token need the blank line, too.
    """
    answers = find_answer_ids(tokenizer, policy)
    placeholder = _word_outside(layout.text([]))  # a policy may use any word
    spaces = layout.labels["user"][len(layout.labels["user"].rstrip()) :]
    lines = _leading_whitespace(commonprefix([layout.gap, layout.tail]))
    for trail, lead in product(dict.fromkeys(("", lines)), dict.fromkeys(("", spaces))):
        by_user, by_agent = (
            _cut_ids(tokenizer, layout, _alternating([placeholder] * 4, first), lead, trail) for first in ROLES
        )
        if by_user and by_agent:
            (start_user, to_agent, to_user, _, tail), (start_agent, *joints) = by_user, by_agent
            starts: dict[Role, tuple[int, ...]] = {"user": start_user, "assistant": start_agent}
            joiners: dict[Role, tuple[int, ...]] = {"user": to_user, "assistant": to_agent}
            frame = PromptFrame(policy, role, starts, joiners, tail, lead, trail, answers, tokenizer)
            if joints == [to_user, to_agent, to_user, tail] and _is_exact(frame, layout):
                return frame
    raise CheckpointError("conversations cannot be spliced into this chat template with this tokenizer: ids differ")


def _render_and_cut(tokenizer: Tokenizer, num_turns: int) -> list[str]:
    messages = [
        {"role": turn.role, "content": turn.content} for turn in _alternating([PLACEHOLDER] * num_turns, "user")
    ]
    try:
        pieces = tokenizer.render(messages).split(PLACEHOLDER)
    except InputError as refusal:
        raise CheckpointError(f"this is no Llama Guard: {refusal}") from refusal
    if len(pieces) != num_turns + 1:
        raise CheckpointError("the chat template does not show every turn exactly once")
    return pieces


def _cut_ids(
    tokenizer: Tokenizer, layout: Layout, turns: Sequence[Turn], lead: str, trail: str
) -> list[tuple[int, ...]] | None:
    """Ids between the turns, which all say the same, or None where its own ids are not found once per turn."""
    ids = tokenizer.encode_template(layout.text(turns))
    mark = tokenizer.encode(lead + turns[0].content + trail)
    pieces, start, position = [], 0, 0
    while position < len(ids):
        if ids[position : position + len(mark)] == mark:
            pieces.append(tuple(ids[start:position]))
            start = position = position + len(mark)
        else:
            position += 1
    pieces.append(tuple(ids[start:]))
    return pieces if len(pieces) == len(turns) + 1 else None


def _is_exact(frame: PromptFrame, layout: Layout) -> bool:
    conversations = [_alternating(PROBES, first) for first in ROLES]
    return all(frame.ids(turns) == frame.tokenizer.encode_template(layout.text(turns)) for turns in conversations)


def _alternating(contents: Sequence[str], first: Role) -> list[Turn]:
    roles: Iterable[Role] = islice(cycle(ROLES), ROLES.index(first), None)
    return [Turn(role, content) for role, content in zip(roles, contents, strict=False)]


def _word_outside(text: str) -> str:
    word = PLACEHOLDER
    while word in text:
        word += "x"
    return word


def _leading_whitespace(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
