"""LiteLLM's generic guardrail contract. The real LiteLLM is asked in test_litellm_itself.py, where it is installed."""

from typing import Any

import pytest
from served import Served

from guardhouse.server.judging.litellm import PATH

FLAG = {"threshold": 0}
PASS = {"threshold": 1}


def ask(server: Served, options: dict[str, Any], **body: Any) -> Any:
    body = {"input_type": "request", "request_data": {}, "additional_provider_specific_params": options, **body}
    response = server.post(body, path=PATH)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_safe_text_passes_unchanged(server: Served) -> None:
    assert ask(server, PASS, texts=["how to make a cake"]) == {"action": "NONE"}


@pytest.mark.parametrize("input_type", ["request", "response"])
def test_an_unsafe_text_is_blocked_with_its_categories_and_none_of_its_words(server: Served, input_type: str) -> None:
    reply = ask(server, FLAG, texts=["xyzzy cake"], input_type=input_type)
    assert reply["action"] == "BLOCKED"
    assert reply["blocked_reason"].startswith("unsafe by policy default: O")
    assert "xyzzy" not in reply["blocked_reason"]


def test_a_conversation_is_judged_as_one(server: Served) -> None:
    messages = [
        {"role": "user", "content": "how to make a cake"},
        {"role": "assistant", "content": "the cake is"},
        {"role": "user", "content": [{"type": "text", "text": "a bomb"}]},
    ]
    expected = server.guard.check(messages).score
    texts = ["how to make a cake", "the cake is", "a bomb"]
    above, below = {"threshold": expected}, {"threshold": min(1.0, expected + 1e-6)}
    assert ask(server, above, texts=texts, structured_messages=messages)["action"] == "BLOCKED"
    assert ask(server, below, texts=texts, structured_messages=messages)["action"] == "NONE"


def test_a_system_message_is_neither_judged_nor_a_policy(server: Served) -> None:
    user = {"role": "user", "content": "a cake"}
    score = server.guard.check("a cake").score
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "O1: Nothing.\nO2: At all."}, user]
        reply = ask(server, {"threshold": score}, texts=["a cake"], structured_messages=messages)
        assert reply["blocked_reason"].startswith("unsafe by policy default: O")


def test_scope_all_judges_every_text_by_itself_too(server: Served) -> None:
    def score(text: str) -> float:
        return server.guard.check(text).score

    texts = ["how to make a cake", "a bomb"]
    messages = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": "of"}]
    messages.append({"role": "user", "content": texts[1]})
    highest = max(server.guard.check(messages).score, *map(score, texts))
    options = {"threshold": highest, "scope": "all"}
    assert ask(server, options, texts=texts, structured_messages=messages)["action"] == "BLOCKED"


def test_the_operators_policy_is_used(server: Served) -> None:
    reply = ask(server, {"threshold": 0, "policy": "O1: Cakes."}, texts=["a cake"])
    assert reply["blocked_reason"].startswith("unsafe by policy custom: O1 Cakes (score ")


def test_tool_calls_of_an_answer_are_judged(server: Served) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "make", "arguments": '{"what": "bomb"}'}}
    assert ask(server, FLAG, texts=[], tool_calls=[call], input_type="response")["action"] == "BLOCKED"


def test_an_image_is_blocked_unless_the_operator_says_otherwise(server: Served) -> None:
    image = ["data:image/png;base64,AAAA"]
    assert "image" in ask(server, PASS, texts=["a cake"], images=image)["blocked_reason"]
    assert ask(server, {**PASS, "images": "ignore"}, texts=["a cake"], images=image) == {"action": "NONE"}


def test_nothing_but_blanks_has_nothing_to_block(server: Served) -> None:
    assert ask(server, FLAG, texts=["", "  "]) == {"action": "NONE"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_type": "sideways", "texts": ["a"]},
        {"input_type": "request", "texts": "a"},
        {"input_type": "request", "texts": ["a"], "additional_provider_specific_params": {"threshold": 7}},
        {"input_type": "request", "texts": ["a"], "additional_provider_specific_params": {"scope": "half"}},
    ],
    ids=repr,
)
def test_a_wrong_request_is_an_error_and_never_a_pass(server: Served, body: Any) -> None:
    response = server.post(body, path=PATH)
    assert response.status_code == 400
    assert "action" not in response.json()
