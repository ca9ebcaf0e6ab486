"""LiteLLM and LangChain themselves, pointed at a server. They are too large for the development tools (litellm alone has
200 MB), so that these tests skip unless somebody has installed them: `pip install litellm langchain-openai`.
"""

import asyncio
from typing import Any

import pytest
from served import ALIAS, Served

MESSAGES: Any = [{"role": "user", "content": "how to make a cake"}]
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours


@pytest.fixture
def litellm() -> Any:
    return pytest.importorskip("litellm", reason="litellm (200 MB) is not installed")


def test_litellm_calls_it_as_an_openai_provider(litellm: Any, server: Served) -> None:
    options = {"model": "openai/random-guard", "api_base": f"{server.url}/v1", "api_key": "any"}
    assert litellm.completion(messages=MESSAGES, **options).choices[0].message.content == "safe"
    chunks = litellm.completion(messages=MESSAGES, stream=True, **options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "safe"
    with pytest.raises(litellm.BadRequestError, match="the judged turn is empty"):
        litellm.completion(messages=[{"role": "user", "content": ""}], **options)


def test_litellm_calls_it_as_workers_ai(litellm: Any, server: Served) -> None:
    base = f"{server.url}/client/v4/accounts/local/ai/run/"
    reply = litellm.completion(model=f"cloudflare/{ALIAS}", messages=MESSAGES, api_base=base, api_key="any")
    assert reply.choices[0].message.content == "safe"


def test_litellm_moderates_through_it(litellm: Any, server: Served) -> None:
    reply = litellm.moderation(
        input="how to make a cake", model="omni-moderation-latest", api_base=f"{server.url}/v1", api_key="any"
    )
    assert reply.results[0].flagged is False


@pytest.mark.parametrize("input_type", ["request", "response"])
def test_litellms_generic_guardrail_passes_and_blocks(litellm: Any, server: Served, input_type: str) -> None:
    hooks = pytest.importorskip("litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api", reason="no proxy")

    def apply(threshold: float) -> Any:
        guardrail = hooks.GenericGuardrailAPI(
            api_base=server.url,
            guardrail_name="guardhouse",
            additional_provider_specific_params={"threshold": threshold},
        )
        inputs = {"texts": ["how to make a cake"], "structured_messages": MESSAGES}
        return asyncio.run(guardrail.apply_guardrail(inputs=inputs, request_data={}, input_type=input_type))

    assert apply(1)["texts"] == ["how to make a cake"]
    with pytest.raises(Exception, match="unsafe by policy default: O"):
        apply(0)


def test_langchain_chats_with_it_plain_streamed_and_structured(server: Served) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(model="random-guard", base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    assert model.invoke("how to make a cake").content == "safe"
    assert "".join(chunk.content for chunk in model.stream("how to make a cake")) == "safe"
    schema = {
        "title": "colour",
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    structured = model.with_structured_output(schema, method="json_schema")
    assert structured.invoke("how to make a cake")["colour"] in {"red", "blue"}
    called = model.with_structured_output(schema, method="function_calling")
    assert called.invoke("how to make a cake")["colour"] in {"red", "blue"}
