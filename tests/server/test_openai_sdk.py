"""OpenAI's own Python SDK, unchanged but for the base URL."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
from served import Served, served, write_guard_checkpoint


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_moderations_parse_with_all_thirteen_categories(client: openai.OpenAI, server: Served) -> None:
    reply = client.moderations.create(input=["a cake", "a bomb"], model="omni-moderation-latest")
    assert reply.model == server.guard.info.name
    assert len(reply.results) == 2
    for result in reply.results:
        assert result.flagged is False
        assert result.categories.harassment_threatening is False
        assert result.category_scores.self_harm_intent == 0.0
        assert result.category_applied_input_types.sexual_minors == []


def test_moderations_take_a_policy_and_a_threshold_of_our_own(client: openai.OpenAI) -> None:
    options = {"threshold": 0, "policy": "O1: Violence and Hate.\nO2: Sexual Content."}
    (result,) = client.moderations.create(input="a bomb", extra_body=options).results
    assert result.flagged is True
    assert result.categories.violence or result.categories.sexual


def test_models_are_listed_and_found_by_name(client: openai.OpenAI, server: Served) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == server.guard.info.name
    assert [client.models.retrieve(name).id for name in names] == names


def test_errors_raise_the_sdks_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(input="")
    assert refused.value.body == {
        "message": "the judged turn is empty",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert refused.value.request_id
    with pytest.raises(openai.NotFoundError) as unknown:
        client.moderations.create(input="a", model="gpt-4o")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as nowhere:
        client.embeddings.create(input="a", model="a")
    assert nowhere.value.code == "unknown_url"


MESSAGES: Any = [{"role": "user", "content": "how to make a cake"}]


def test_chat_completions_parse_plain_and_streamed(client: openai.OpenAI, server: Served) -> None:
    model = server.guard.info.name
    reply = client.chat.completions.create(model=model, messages=MESSAGES, logprobs=True, top_logprobs=2, max_tokens=2)
    assert reply.choices[0].logprobs is not None
    assert reply.choices[0].logprobs.content is not None
    tokens = [entry.token for entry in reply.choices[0].logprobs.content]
    assert "".join(tokens).strip() == reply.choices[0].message.content
    assert reply.usage is not None
    options: Any = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "safe"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


def test_the_stream_helper_assembles_a_completion(client: openai.OpenAI, server: Served) -> None:
    with client.chat.completions.stream(model=server.guard.info.name, messages=MESSAGES) as stream:
        assert stream.get_final_completion().choices[0].message.content == "safe"


def test_structured_output_is_parsed_by_the_sdk(client: openai.OpenAI, server: Served) -> None:
    class Colour(pydantic.BaseModel):
        colour: Literal["red", "blue"]

    reply = client.chat.completions.parse(model=server.guard.info.name, messages=MESSAGES, response_format=Colour)
    assert reply.choices[0].message.parsed is not None
    assert reply.choices[0].message.parsed.colour in {"red", "blue"}


def test_completions_parse_plain_and_streamed(client: openai.OpenAI, server: Served) -> None:
    model = server.guard.info.name
    reply = client.completions.create(model=model, prompt="how to make", max_tokens=5, logprobs=1)
    assert reply.choices[0].logprobs is not None
    stream = client.completions.create(model=model, prompt="how to make", max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == reply.choices[0].text


def test_a_stream_that_cannot_begin_raises(client: openai.OpenAI, server: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="the judged turn is empty"):
        client.chat.completions.create(
            model=server.guard.info.name, messages=[{"role": "user", "content": ""}], stream=True
        )


def test_a_server_that_cannot_answer_now_raises_the_sdks_classes(tmp_path: Path) -> None:
    folder = write_guard_checkpoint(tmp_path / "random-guard")
    slow: Any = {"model": "random-guard", "prompt": "a cake", "max_tokens": 3000, "temperature": 2}
    with served(folder, max_num_seqs=1, max_queue=1, request_timeout_s=1.0, threshold=1.0) as server:
        url = f"{server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client, ThreadPoolExecutor(6) as pool:
            calls = [pool.submit(client.completions.create, **slow) for _ in range(6)]
            kinds = {type(call.exception()) for call in calls}
            assert openai.RateLimitError in kinds
            assert any(getattr(call.exception(), "status_code", None) == 408 for call in calls)
            full = next(error for call in calls if isinstance(error := call.exception(), openai.RateLimitError))
            assert full.code == "rate_limit_exceeded"
            assert int(full.response.headers["retry-after"]) >= 1
            assert server.wait_until_idle()
            with pytest.raises(openai.APIError, match="Request timeout"):  # in the midst of a stream
                list(client.completions.create(**slow, stream=True))


def test_a_body_that_is_too_large_is_413(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.moderations.create(input="a " * (6 << 20))
    assert refused.value.status_code == 413
    assert refused.value.code == "request_too_large"
