"""The render route: what the guard would read, and what it costs."""

from typing import Any

import pytest
import requests
from served import Served

MESSAGES = [{"role": "user", "content": "How do I bake bread?"}]


def render(server: Served, body: Any) -> requests.Response:
    return server.post(body, path="/v1/render")


def test_the_prompt_comes_in_parts_that_cost_what_a_verdict_reads(server: Served) -> None:
    rendered = render(server, {"messages": MESSAGES}).json()
    verdict = server.post({"messages": MESSAGES}).json()["result"]["verdict"]
    assert [part["kind"] for part in rendered["parts"]] == ["head", "content", "tail"]
    assert rendered["parts"][1]["text"] == "How do I bake bread?"
    assert rendered["num_tokens"] == verdict["num_prompt_tokens"]
    assert rendered["num_tokens"] == sum(part["num_tokens"] for part in rendered["parts"])
    assert rendered["window"] == 4096


def test_the_default_policy_is_told_with_its_categories(server: Served) -> None:
    policy = render(server, {"messages": MESSAGES}).json()["policy"]
    assert policy["is_default"] is True
    assert [category["code"] for category in policy["categories"]] == ["O1", "O2", "O3"]
    assert policy["text"] in render(server, {"messages": MESSAGES}).json()["parts"][0]["text"]


def test_another_policy_replaces_it(server: Served) -> None:
    rendered = render(server, {"messages": MESSAGES, "policy": "O1: Spoons."}).json()
    assert rendered["policy"]["is_default"] is False
    assert rendered["policy"]["categories"] == [{"code": "O1", "name": "Spoons", "description": ""}]
    assert "O1: Spoons." in rendered["parts"][0]["text"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "messages"),
        ({"messages": "secret words"}, "messages"),
        ({"messages": MESSAGES, "policy": 7}, "policy"),
        ({"messages": MESSAGES, "policy": "secret words"}, "category list"),
        ({"messages": MESSAGES, "secret words": 1}, "unknown field"),
        ({"messages": []}, "empty"),
        ({"messages": [{"role": "secret words", "content": "hi"}]}, "role"),
        ([1], "object"),
    ],
)
def test_a_refusal_names_the_place_and_quotes_nothing(server: Served, body: Any, place: str) -> None:
    response = render(server, body)
    assert response.status_code == 400
    assert place in response.text
    assert "secret words" not in response.text
