"""How a request becomes a conversation to judge: roles, merging, tool calls, policies in system messages.

Knows: chat messages as plain mappings, whole guard prompts given as text.
Never knows: token ids, templates, HTTP.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from guardhouse.errors import InputError
from guardhouse.guard.policy import CATEGORY_BLOCK, CATEGORY_LINE, CONVERSATION_BLOCK, Policy, holds_category_list

Role = Literal["user", "assistant"]

SPEAKERS: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "tool": "assistant"}
TURN_LABEL = re.compile(r"^[ \t]*(User|Agent|Assistant):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the last of which is judged and the others are its context; `policy_text` replaces the default policy."""

    turns: tuple[Turn, ...]
    policy_text: str | None = None

    def __post_init__(self) -> None:
        if not self.turns:
            raise InputError("the conversation is empty: there is no user or assistant turn to judge")
        if not self.judged.content.strip():
            raise InputError("the judged turn is empty")
        for turn in self.turns:
            require_unicode(turn.content, "a turn")

    @property
    def judged(self) -> Turn:
        return self.turns[-1]


@dataclass(frozen=True, slots=True)
class GuardPrompt:
    """A whole guard prompt that the caller wrote: `text` is final, `policy` has the codes that its answer may name."""

    text: str
    policy: Policy
    role: Role


def parse_messages(messages: Sequence[Mapping[str, object]]) -> Conversation:
    """Chat messages -> conversation. The last user or assistant turn is judged.

    Consecutive turns of one role are joined by a blank line; `tool` results and assistant `tool_calls` are the assistant's
    text. A `system` message that holds a category list is the policy; any other is background that the model never sees.

    >>> parse_messages([{"role": "user", "content": "Hi"}]).judged
    Turn(role='user', content='Hi')
    """
    turns: list[Turn] = []
    policies: list[str] = []
    last: Turn | None = None
    for number, message in enumerate(messages, start=1):
        role, text = _read_message(message, f"message {number}")
        if role == "system":
            policies += [text] if holds_category_list(text) else []
            continue
        last = Turn(SPEAKERS[role], text)
        if not text.strip():
            continue
        if turns and turns[-1].role == last.role:
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n\n{text}")
        else:
            turns.append(last)
    if last and (not turns or turns[-1].role != last.role):
        raise InputError("the judged turn is empty")
    return Conversation(tuple(turns), "\n".join(policies) or None)


def parse_guard_prompt(text: str, default: Policy, *, instruct: bool) -> GuardPrompt | None:
    """A `prompt` that is a whole guard prompt, or None: then it is what a user said.

    It is whole if it has a category block or a conversation block, begun and ended by markers. So whoever judges text of
    strangers sends `messages`, where markers stay text. `instruct`: the checkpoint's prompts stand in [INST] … [/INST].
    """
    category_block, conversation_block = CATEGORY_BLOCK.search(text), CONVERSATION_BLOCK.search(text)
    if not category_block and not conversation_block:
        return None
    require_unicode(text, "the prompt")
    text = text.strip()
    if instruct and "[INST]" not in text and "[/INST]" not in text:
        text = f"[INST] {text} [/INST]"
    labels = TURN_LABEL.findall(conversation_block["text"] if conversation_block else text)
    role: Role = "assistant" if labels and labels[-1] != "User" else "user"
    return GuardPrompt(text, _prompt_policy(text, default), role)


def require_unicode(text: str, where: str) -> None:
    """Lone surrogates are in no encoding and no vocabulary."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} is not valid Unicode: it holds a lone surrogate") from None


def _prompt_policy(text: str, default: Policy) -> Policy:
    """The codes that the caller's own prompt lists; the default policy's where it lists none."""
    conversation = CONVERSATION_BLOCK.search(text)
    frame = text[: conversation.start()] if conversation else text
    block = CATEGORY_BLOCK.search(frame)
    is_listed = CATEGORY_LINE.search(block["text"]) if block else holds_category_list(frame)
    return Policy.parse(frame, "prompt") if is_listed else default


def _read_message(message: object, where: str) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is not an object")
    role = message.get("role")
    if not isinstance(role, str) or (role != "system" and role not in SPEAKERS):
        raise InputError(f"{where} has an unknown role; known are system, user, assistant and tool")
    calls = message.get("tool_calls") or () if role == "assistant" else ()
    content = message.get("content")
    texts = [] if content is None and calls else [_content_text(content, where)]
    texts += _tool_call_texts(calls, where)
    text = "\n\n".join(texts)
    require_unicode(text, where)
    return role, text


def _content_text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise InputError(f"{where} has content that is neither text nor a list of text parts")
    parts = []
    for number, part in enumerate(content, start=1):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
        if not isinstance(text, str):
            raise InputError(f"{where} has content that is not text: part {number}")
        parts.append(text)
    return "\n".join(parts)


def _tool_call_texts(calls: object, where: str) -> Iterator[str]:
    """`name arguments` per call, in both shapes in use: {"name", "arguments"} and {"function": {"name", "arguments"}}."""
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise InputError(f"{where} has tool_calls that are not a list")
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise InputError(f"{where} has a tool call without a name")
        arguments = function.get("arguments", "")
        yield f"{name} {arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)}".strip()
