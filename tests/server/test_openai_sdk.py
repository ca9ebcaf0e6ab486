"""OpenAI's own Python SDK, unchanged but for the base URL."""

from collections.abc import Iterator

import openai
import pytest
from served import Served


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
