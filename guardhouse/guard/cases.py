"""From what a caller asks to what the model reads: one judgement as a Case, or the ids of a prompt to go on from.

Knows: frames, the window, the configured threshold, how a long turn is cut.
Never knows: engines, futures, when anything runs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from guardhouse.errors import ContextOverflow, InputError
from guardhouse.guard.conversation import Conversation, Turn, parse_guard_prompt, parse_messages, require_unicode
from guardhouse.guard.judging import Case
from guardhouse.guard.policy import Policy
from guardhouse.guard.prompt import FrameStore, PromptFrame
from guardhouse.guard.verdict import find_answer_ids
from guardhouse.guard.windows import cut_windows

MIN_WINDOW_TOKENS = 64  # of a long text: where the context leaves less, there is too little to judge at a time

Judged = str | Sequence[Mapping[str, object]] | Conversation


class PromptOptions(TypedDict, total=False):
    """How to judge what brings its own policy; see Guard.submit."""

    threshold: float | None
    all_categories: bool
    timeout_s: float | None


class JudgeOptions(PromptOptions, total=False):
    """How to judge; see Guard.submit."""

    policy: Policy | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one guard was set up with."""

    window: int  # tokens that the model reads at once
    max_windows: int  # into which one text may be cut
    threshold: float  # where a caller names none


class Cases:
    """Makes cases under one checkpoint's frames. Everything here raises InputError, PolicyError or ContextOverflow."""

    def __init__(self, frames: FrameStore, limits: Limits) -> None:
        self._frames = frames
        self._limits = limits

    def of_conversation(
        self,
        conversation: Conversation,
        *,
        policy: Policy | None = None,
        threshold: float | None = None,
        all_categories: bool = False,
        timeout_s: float | None = None,
    ) -> Case:
        """Its last turn is judged; where that is too long, window by window."""
        frame = self.frame(conversation, policy)
        prompts, spans = self._cut(conversation, frame)
        return Case(
            policy=frame.policy,
            role=frame.role,
            threshold=self._checked_threshold(threshold),
            answers=frame.answers,
            prompts=prompts,
            spans=spans,
            all_categories=all_categories,
            deadline=deadline_after(timeout_s),
        )

    def of_prompt(
        self,
        text: str,
        *,
        threshold: float | None = None,
        all_categories: bool = False,
        timeout_s: float | None = None,
    ) -> Case | None:
        """A whole guard prompt that the caller wrote, by its own categories. None: the text is none."""
        frames = self._frames
        prompt = parse_guard_prompt(text, frames.default_policy, instruct=frames.is_instruct)
        if prompt is None:
            return None
        return Case(
            policy=prompt.policy,
            role=prompt.role,
            threshold=self._checked_threshold(threshold),
            answers=find_answer_ids(frames.tokenizer, prompt.policy),
            prompts=[self._plain_ids(prompt.text)],
            spans=[(0, len(text))],
            all_categories=all_categories,
            deadline=deadline_after(timeout_s),
        )

    def generation_ids(self, prompt: str | Sequence[Mapping[str, object]], *, raw: bool, lead: str) -> list[int]:
        """What the model goes on from. `raw`: exactly this text. `lead`: what it is to have answered already."""
        ids = self._prompt_ids(prompt, raw=raw)
        return [*ids, *self._frames.tokenizer.encode(lead)] if lead else ids

    def policy_of(self, conversation: Conversation, policy: Policy | None) -> Policy:
        """A system message's, else `policy`, else the checkpoint's own."""
        if conversation.policy_text is not None:
            return Policy.parse(conversation.policy_text)
        return policy or self._frames.default_policy

    def frame(self, conversation: Conversation, policy: Policy | None) -> PromptFrame:
        """What stands around the conversation's turns."""
        return self._frames.frame(conversation.judged.role, self.policy_of(conversation, policy))

    def _checked_threshold(self, threshold: float | None) -> float:
        """NaN would be no score's equal and pass everything."""
        if threshold is None:
            return self._limits.threshold
        if not 0 <= threshold <= 1:
            raise InputError("the threshold must be between 0 and 1")
        return threshold

    def _cut(
        self, conversation: Conversation, frame: PromptFrame
    ) -> tuple[Sequence[list[int]], Sequence[tuple[int, int]]]:
        """The conversation's ids, once, or once per window of a judged turn that is too long. Context is never cut."""
        window, max_windows = self._limits.window, self._limits.max_windows
        *context, judged = conversation.turns
        ids = frame.ids(conversation.turns)
        room = window - frame.answers.max_length
        if len(ids) <= room:
            return [ids], [(0, len(judged.content))]
        num_fixed = len(ids) - len(frame.content_ids(judged.content))
        max_tokens = room - num_fixed
        if max_tokens < min(MIN_WINDOW_TOKENS, window // 8):
            raise ContextOverflow(num_fixed, window)
        spans = cut_windows(judged.content, max_tokens, lambda text: len(frame.content_ids(text)))
        if len(spans) > max_windows:
            raise ContextOverflow(len(ids), max_tokens * max_windows)
        windows = (Turn(judged.role, judged.content[start:end]) for start, end in spans)
        return [frame.ids([*context, window]) for window in windows], spans

    def _prompt_ids(self, prompt: str | Sequence[Mapping[str, object]], *, raw: bool) -> list[int]:
        if isinstance(prompt, str):
            whole = parse_guard_prompt(prompt, self._frames.default_policy, instruct=self._frames.is_instruct)
            if raw or whole is not None:
                return self._plain_ids(prompt if raw or whole is None else whole.text)
        conversation = as_conversation(prompt)
        return self.frame(conversation, None).ids(conversation.turns)

    def _plain_ids(self, text: str) -> list[int]:
        require_unicode(text, "the prompt")
        tokenizer = self._frames.tokenizer
        return tokenizer.encode(text, bos=tokenizer.add_bos)


def as_conversation(judged: Judged) -> Conversation:
    """A string is one user turn."""
    if isinstance(judged, Conversation):
        return judged
    return Conversation((Turn("user", judged),)) if isinstance(judged, str) else parse_messages(judged)


def deadline_after(timeout_s: float | None) -> float | None:
    """A time.monotonic() value."""
    return None if timeout_s is None else time.monotonic() + timeout_s
