"""What messages mean: roles, merging, system texts, tools, and what is refused."""

from typing import Any

import pytest

from guardhouse.errors import InputError
from guardhouse.guard.conversation import Turn, parse_guard_prompt, parse_messages
from guardhouse.guard.policy import Category, Policy

POLICY = Policy("default", (Category("O1", "Violence"), Category("O2", "Theft")))


def message(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


def test_the_last_turn_is_judged_and_the_others_are_context() -> None:
    conversation = parse_messages([message("user", "Hi"), message("assistant", "Hello"), message("user", "Bye")])
    assert conversation.judged == Turn("user", "Bye")
    assert len(conversation.turns) == 3


def test_consecutive_turns_of_one_role_are_joined_by_a_blank_line() -> None:
    assert parse_messages([message("user", "a"), message("user", "b")]).turns == (Turn("user", "a\n\nb"),)


def test_a_leading_assistant_turn_is_allowed() -> None:
    assert parse_messages([message("assistant", "Hello")]).judged.role == "assistant"


def test_background_in_a_system_message_is_not_shown() -> None:
    conversation = parse_messages([message("system", "You are a pirate."), message("user", "Hi")])
    assert conversation.policy_text is None
    assert conversation.turns == (Turn("user", "Hi"),)


@pytest.mark.parametrize("text", ["O1: Pies.\nShould not\n- Steal pies.", "S1: Pies.", "01: Pies."])
def test_a_category_list_in_a_system_message_is_the_policy(text: str) -> None:
    policy_text = parse_messages([message("system", text), message("user", "Hi")]).policy_text
    assert policy_text is not None
    assert Policy.parse(policy_text).categories[0].name == "Pies"


def test_tool_calls_and_results_are_the_agents_text() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "shell", "arguments": '{"cmd": "ls"}'}}
    conversation = parse_messages(
        [message("user", "List"), message("assistant", None, tool_calls=[call]), message("tool", "a.txt")]
    )
    assert conversation.judged == Turn("assistant", 'shell {"cmd": "ls"}\n\na.txt')


def test_text_parts_are_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_messages([message("user", parts)]).judged.content == "a\nb"


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([], "empty"),
        ([message("user", "  ")], "judged turn is empty"),
        ([message("user", "Hi"), message("assistant", "")], "judged turn is empty"),
        ([message("system", "Be nice.")], "empty"),
        ([message("wizard", "Hi")], "unknown role"),
        ([message("user", [{"type": "image_url", "image_url": "x"}])], "not text"),
        ([message("user", 5)], "neither text"),
        ([message("user", "\ud800")], "Unicode"),
        (["Hi"], "not an object"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(messages: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        parse_messages(messages)


def test_a_plain_prompt_is_what_a_user_said() -> None:
    assert parse_guard_prompt("How are you? [INST]", POLICY, instruct=True) is None


def test_a_whole_guard_prompt_passes_through_with_its_own_codes() -> None:
    text = "[INST] <BEGIN UNSAFE CONTENT CATEGORIES>\n01: Pies.\n<END UNSAFE CONTENT CATEGORIES>\nUser: hi [/INST]"
    prompt = parse_guard_prompt(text, POLICY, instruct=True)
    assert prompt is not None
    assert prompt.text == text
    assert prompt.policy.codes == ("01",)


def test_a_guard_prompt_without_instruction_marks_gets_them() -> None:
    text = "<BEGIN CONVERSATION>\nUser: hi\n\nAgent: yes\n<END CONVERSATION>"
    prompt = parse_guard_prompt(text, POLICY, instruct=True)
    assert prompt is not None
    assert prompt.text == f"[INST] {text} [/INST]"
    assert (prompt.policy, prompt.role) == (POLICY, "assistant")
