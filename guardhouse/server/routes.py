"""The endpoints beside Workers AI's own: OpenAI's, Guardhouse's, and those of its neighbours.

Knows: paths, handlers, and what /openapi.json says about them.
Never knows: what the handlers do.
"""

from typing import Any, Literal

from guardhouse.server import litellm, scoring
from guardhouse.server.check import CheckRequest, FullVerdict, check
from guardhouse.server.context import Handler, Handlers
from guardhouse.server.info import info, version_only
from guardhouse.server.openai.chat import ChatRequest, chat_completions
from guardhouse.server.openai.completions import CompletionRequest, completions
from guardhouse.server.openai.models import get_model, list_models
from guardhouse.server.openai.moderations import ModerationReply, ModerationRequest, moderations
from guardhouse.server.openapi import Endpoint, OpenAIErrorBody
from guardhouse.server.render import RenderReply, RenderRequest, render

ACCOUNT_PREFIX = "/client/v4/accounts/{account}/ai"  # where Workers AI has OpenAI's routes, too


def call_endpoints(handlers: Handlers) -> list[Endpoint]:
    """All of them."""

    def endpoint(method: Literal["GET", "POST"], path: str, handle: Handler, **about: Any) -> Endpoint:
        return Endpoint(method=method, path=path, handler=handlers.handler(handle), error=OpenAIErrorBody, **about)

    def openai(method: Literal["GET", "POST"], path: str, handle: Handler, **about: Any) -> Endpoint:
        return endpoint(method, path, handle, aliases=(ACCOUNT_PREFIX + path,), tag="OpenAI", **about)

    return [
        openai(
            "POST",
            "/v1/moderations",
            moderations,
            summary="Judge texts, in OpenAI's categories and in those of the policy",
            body=ModerationRequest,
            result=ModerationReply,
        ),
        openai(
            "POST",
            "/v1/chat/completions",
            chat_completions,
            summary="Judge a conversation's last turn, as a chat model's answer",
            body=ChatRequest,
            is_streamed=True,
        ),
        openai(
            "POST",
            "/v1/completions",
            completions,
            summary="Go on from exactly this text",
            body=CompletionRequest,
            is_streamed=True,
        ),
        openai("GET", "/v1/models", list_models, summary="The guard, under each of its names"),
        openai("GET", "/v1/models/{model:path}", get_model, summary="One of them"),
        endpoint(
            "POST",
            "/v1/check",
            check,
            summary="Judge one input, several, or a stream of many: the whole verdict",
            tag="Guardhouse",
            body=CheckRequest,
            result=FullVerdict,
        ),
        endpoint(
            "POST",
            "/v1/render",
            render,
            summary="The prompt that a judgement would read, part by part, with token counts",
            tag="Guardhouse",
            body=RenderRequest,
            result=RenderReply,
        ),
        endpoint("GET", "/info", info, summary="What runs here", tag="Server"),
        Endpoint(
            method="GET", path="/version", handler=version_only, summary="Guardhouse's version", tag="Server", result={}
        ),
        endpoint(
            "POST",
            "/tokenize",
            scoring.tokenize,
            summary="Token ids of a text, or of a conversation's guard prompt",
            tag="Tokens",
            body=scoring.TokenizeRequest,
        ),
        endpoint(
            "POST",
            "/detokenize",
            scoring.detokenize,
            summary="The text of token ids",
            tag="Tokens",
            body=scoring.DetokenizeRequest,
        ),
        endpoint(
            "POST",
            "/generative_scoring",
            scoring.generative_scoring,
            summary="Probability of a label as the next token, in vLLM's form",
            tag="Tokens",
            body=scoring.GenerativeScoringRequest,
        ),
        endpoint(
            "POST",
            "/v1/score",
            scoring.score,
            summary="Probabilities of labels as the next token, in SGLang's form",
            tag="Tokens",
            body=scoring.ScoreRequest,
        ),
        endpoint(
            "POST",
            litellm.PATH,
            litellm.guardrail,
            summary="LiteLLM's generic guardrail",
            tag="Neighbours",
            body=litellm.GuardrailRequest,
            result=litellm.GuardrailReply,
        ),
    ]
