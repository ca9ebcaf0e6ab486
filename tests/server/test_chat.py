"""/v1/chat/completions and /v1/completions over real sockets. OpenAI's SDKs are asked in test_openai_sdk.py."""

import json
import math
from typing import Any

import pytest
import requests
from served import Served

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "how to make a cake"}]
SAMPLED = {"temperature": 2, "seed": 7, "max_tokens": 20}
COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}


def ask(server: Served, path: str = CHAT, **body: Any) -> Any:
    response = server.post(body if path == TEXT else {"messages": USER, **body}, path=path)
    assert response.status_code == 200, response.text
    return response.json()


def chunks(server: Served, path: str = CHAT, **body: Any) -> list[Any]:
    body = {"stream": True, **body} if path == TEXT else {"messages": USER, "stream": True, **body}
    response = server.post(body, path=path)
    assert response.headers["content-type"] == "text/event-stream", response.text
    blocks = response.content.decode().split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def joined(found: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in found for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def test_a_chat_is_answered_with_the_verdict(server: Served) -> None:
    reply = ask(server, model=server.guard.info.name)
    (choice,) = reply["choices"]
    assert reply["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": "safe", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"], choice["index"]) == ("stop", None, 0)
    assert reply["verdict"]["score"] == server.guard.check(USER).score
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    "body", [{}, {"logprobs": True}, SAMPLED, {**SAMPLED, "n": 3}, {**SAMPLED, "stop": "a"}], ids=str
)
def test_a_stream_tells_the_same_as_the_whole(server: Served, body: Any) -> None:
    whole, found = ask(server, **body), chunks(server, **body)
    for choice in whole["choices"]:
        assert joined(found, choice["index"]) == choice["message"]["content"]
        ends = [one for chunk in found for one in chunk["choices"] if one["index"] == choice["index"]]
        assert ends[0]["delta"]["role"] == "assistant"
        assert [end["finish_reason"] for end in ends if end["finish_reason"]] == [choice["finish_reason"]]
        if choice["logprobs"]:
            parts = [entry for end in ends if end["logprobs"] for entry in end["logprobs"]["content"]]
            assert parts == choice["logprobs"]["content"]
    assert len({chunk["id"] for chunk in found}) == 1


def test_usage_comes_last_and_only_if_asked_for(server: Served) -> None:
    assert all("usage" not in chunk for chunk in chunks(server))
    *before, last = chunks(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []
    assert last["usage"] == ask(server)["usage"]


def test_logprobs_are_of_the_raw_logits_and_give_the_score(server: Served) -> None:
    verdict = server.guard.check(USER)
    for body in ({}, {"temperature": 2, "seed": 3, "presence_penalty": 1}):
        entry = ask(server, logprobs=True, top_logprobs=5, max_tokens=1, **body)["choices"][0]["logprobs"]["content"]
        if not entry:
            continue  # the end of the text was drawn
        top = {one["token"].strip(): one["logprob"] for one in entry[0]["top_logprobs"]}
        p_safe, p_unsafe = math.exp(top["safe"]), math.exp(top["unsafe"])
        assert p_unsafe / (p_safe + p_unsafe) == pytest.approx(verdict.score, rel=1e-6)
        assert bytes(entry[0]["bytes"]).decode() == entry[0]["token"]


def test_choices_differ_by_their_seed_and_repeat_with_it(server: Served) -> None:
    first = [choice["message"]["content"] for choice in ask(server, **SAMPLED, n=4)["choices"]]
    again = [choice["message"]["content"] for choice in ask(server, **SAMPLED, n=4)["choices"]]
    assert first == again
    assert len(set(first)) > 1
    assert ask(server, **{**SAMPLED, "seed": 8})["choices"][0]["message"]["content"] == first[1]


def test_an_answer_ends_before_a_stop_string(server: Served) -> None:
    full = ask(server, **SAMPLED)["choices"][0]["message"]["content"]
    stop = full[len(full) // 2 :][:3]
    cut = ask(server, **SAMPLED, stop=[stop])["choices"][0]
    assert cut["message"]["content"] == full[: full.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_max_completion_tokens_goes_before_max_tokens(server: Served) -> None:
    reply = ask(server, **{**SAMPLED, "max_completion_tokens": 3})
    assert reply["usage"]["completion_tokens"] <= 3
    assert reply["choices"][0]["finish_reason"] in {"length", "stop"}


def test_a_json_object_is_the_verdict_as_json(server: Served) -> None:
    body = {"response_format": {"type": "json_object"}}
    content = ask(server, **body)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"safe": True, "categories": []}
    assert joined(chunks(server, **body)) == content


def test_a_json_schema_holds_the_text(server: Served) -> None:
    body = {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR}}}
    found = json.loads(ask(server, **body)["choices"][0]["message"]["content"])
    assert found["colour"] in {"red", "blue"}
    run = {"messages": USER, "response_format": {"type": "json_schema", "json_schema": COLOUR}}
    assert server.post(run).json()["result"]["response"] == found  # Workers AI's route writes the same
    refused = server.post({"messages": USER, "response_format": {"type": "json_schema"}}, path=CHAT)
    assert refused.status_code == 400


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
def test_a_forced_tool_is_called_by_its_own_schema(server: Served, choice: Any) -> None:
    tools = [{"type": "function", "function": {"name": "paint", "parameters": COLOUR}}]
    reply = ask(server, tools=tools, tool_choice=choice)["choices"][0]
    (call,) = reply["message"]["tool_calls"]
    assert reply["finish_reason"] == "tool_calls"
    assert reply["message"]["content"] is None
    assert call["function"]["name"] == "paint"
    assert json.loads(call["function"]["arguments"])["colour"] in {"red", "blue"}
    deltas = [one["delta"] for chunk in chunks(server, tools=tools, tool_choice=choice) for one in chunk["choices"]]
    (streamed,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert streamed[0]["function"] == call["function"]


def test_tools_alone_change_nothing(server: Served) -> None:
    tools = [{"type": "function", "function": {"name": "paint", "parameters": COLOUR}}]
    assert ask(server, tools=tools, tool_choice="auto")["choices"][0]["message"]["content"] == "safe"


def test_a_completion_goes_on_from_exactly_this_text(server: Served) -> None:
    reply = ask(server, TEXT, prompt="how to make", max_tokens=6, logprobs=2)
    (choice,) = reply["choices"]
    assert reply["object"] == "text_completion"
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]).lstrip() == choice["text"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"])
    assert all(1 <= len(top) <= 2 for top in logprobs["top_logprobs"])
    assert reply["usage"]["prompt_tokens"] == len(server.guard.tokenizer.encode("how to make", bos=True))


def test_several_prompts_and_choices_are_numbered_prompt_by_prompt(server: Served) -> None:
    body = {"prompt": ["how to", "make a"], "n": 2, "max_tokens": 5, "temperature": 2, "seed": 5}
    whole = ask(server, TEXT, **body)
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    alone = ask(server, TEXT, **{**body, "prompt": "make a"})["choices"]
    assert [choice["text"] for choice in whole["choices"][2:]] == [choice["text"] for choice in alone]
    found = chunks(server, TEXT, **body, stream_options={"include_usage": True})
    assert [joined(found, index) for index in range(4)] == [choice["text"] for choice in whole["choices"]]
    assert found[-1]["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (CHAT, {}, 400),
        (CHAT, {"messages": []}, 400),
        (CHAT, {"messages": [{"role": "user", "content": ""}]}, 400),
        (CHAT, {"messages": [{"role": "oracle", "content": "x"}]}, 400),
        (CHAT, {"messages": USER, "model": "gpt-4o"}, 404),
        (CHAT, {"messages": USER, "n": 99}, 400),
        (CHAT, {"messages": USER, "temperature": 3}, 400),
        (CHAT, {"messages": USER, "top_logprobs": 2}, 400),
        (CHAT, {"messages": USER, "stop": [""]}, 400),
        (CHAT, {"messages": USER, "tool_choice": "required"}, 400),
        (CHAT, {"messages": USER, "moderation": {"model": "omni-moderation-latest"}}, 400),
        (CHAT, {"messages": USER, "logit_bias": {"1": 5}}, 400),
        (CHAT, {"messages": USER, "temperature": 1, "max_tokens": 10**7}, 400),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}, 400),
        (TEXT, {"prompt": ""}, 400),
        (TEXT, {"prompt": []}, 400),
        (TEXT, {"prompt": [1, 2]}, 400),
        (TEXT, {"prompt": "a", "echo": True}, 400),
        (TEXT, {"prompt": "a", "suffix": "b"}, 400),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_before_a_stream_begins(
    server: Served, path: str, body: Any, status: int, stream: bool
) -> None:
    response = server.post({**body, "stream": stream}, path=path)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["message"]


def test_too_long_for_the_window_is_openais_context_error(server: Served) -> None:
    body = {"prompt": "a " * 6000, "max_tokens": 5}
    error = server.post(body, path=TEXT).json()["error"]
    assert error["code"] == "context_length_exceeded"


def test_workers_ai_has_the_same_route_with_its_own_errors(server: Served) -> None:
    path = "/client/v4/accounts/local/ai/v1/chat/completions"
    body = {"messages": USER, "model": "@hf/thebloke/llamaguard-7b-awq"}
    assert server.post(body, path=path).json()["choices"][0]["message"]["content"] == "safe"
    refused = server.post({**body, "model": "nothing"}, path=path).json()
    assert (refused["success"], refused["errors"][0]["code"]) == (False, 5007)


def test_a_client_that_leaves_a_stream_frees_its_work(server: Served) -> None:
    body = {"prompt": "a cake", "temperature": 2, "max_tokens": 2000, "stream": True, "n": 4, "seed": 1}
    with requests.post(f"{server.url}{TEXT}", json=body, stream=True, timeout=30) as response:
        next(response.iter_lines())
    assert server.wait_until_idle(20)
