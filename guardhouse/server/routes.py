"""The endpoints beside Workers AI's own: OpenAI's, Guardhouse's, and those of its neighbours.

Knows: paths, handlers, and what /openapi.json says about them.
Never knows: what the handlers do.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from guardhouse.server.context import Handler, Handlers
from guardhouse.server.info import info, version_only
from guardhouse.server.jobs.runner import JobRunner
from guardhouse.server.judging import litellm, scoring
from guardhouse.server.judging.check import CheckRequest, FullVerdict, check
from guardhouse.server.judging.render import RenderReply, RenderRequest, render
from guardhouse.server.openai.batch_results import BatchResults
from guardhouse.server.openai.batches import Batches, BatchRequest
from guardhouse.server.openai.chat import ChatRequest, chat_completions
from guardhouse.server.openai.completions import CompletionRequest, completions
from guardhouse.server.openai.file_store import FileStore
from guardhouse.server.openai.files import PURPOSES, Files
from guardhouse.server.openai.models import get_model, list_models
from guardhouse.server.openai.moderations import ModerationReply, ModerationRequest, moderations
from guardhouse.server.openapi import Endpoint, OpenAIErrorBody

Method = Literal["GET", "POST", "DELETE"]
ACCOUNT_PREFIX = "/client/v4/accounts/{account}/ai"  # where Workers AI has OpenAI's routes, too

UPLOAD_SCHEMA = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[seconds]": {"type": "integer"},
    },
    "required": ["file", "purpose"],
}


@dataclass(frozen=True, slots=True)
class Describe:
    """Writes endpoints down in one line each."""

    handlers: Handlers

    def endpoint(self, method: Method, path: str, handle: Handler, **about: Any) -> Endpoint:
        handler = self.handlers.handler(handle)
        return Endpoint(method=method, path=path, handler=handler, error=OpenAIErrorBody, **about)

    def openai(self, method: Method, path: str, handle: Handler, **about: Any) -> Endpoint:
        return self.endpoint(method, path, handle, aliases=(ACCOUNT_PREFIX + path,), tag="OpenAI", **about)


def call_endpoints(handlers: Handlers, jobs: JobRunner, files: FileStore) -> list[Endpoint]:
    """All of them."""
    describe = Describe(handlers)
    return [
        *openai_endpoints(describe),
        *batch_endpoints(describe, jobs, files),
        *own_endpoints(describe),
        *neighbour_endpoints(describe),
    ]


def openai_endpoints(describe: Describe) -> list[Endpoint]:
    """OpenAI's that answer at once."""
    openai = describe.openai
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
    ]


def batch_endpoints(describe: Describe, jobs: JobRunner, files: FileStore) -> list[Endpoint]:
    """OpenAI's that answer later."""
    endpoint = partial(describe.endpoint, tag="OpenAI batches")
    results = BatchResults(jobs)
    stored, batches = Files(files, results), Batches(jobs, files, results)
    return [
        Endpoint(
            method="POST",
            path="/v1/files",
            handler=describe.handlers.upload_handler(stored.upload),
            summary="Upload a batch's requests, one JSON object per line",
            tag="OpenAI batches",
            body=UPLOAD_SCHEMA,
            body_type="multipart/form-data",
            error=OpenAIErrorBody,
        ),
        endpoint("GET", "/v1/files", stored.list_all, summary="Uploaded files, newest first"),
        endpoint("GET", "/v1/files/{file}", stored.retrieve, summary="A file's description"),
        endpoint("GET", "/v1/files/{file}/content", stored.content, summary="A file, or a batch's output"),
        endpoint("DELETE", "/v1/files/{file}", stored.delete, summary="Delete a file"),
        endpoint("POST", "/v1/batches", batches.create, summary="Answer a file of requests", body=BatchRequest),
        endpoint("GET", "/v1/batches", batches.list_all, summary="Batches, newest first"),
        endpoint("GET", "/v1/batches/{batch}", batches.retrieve, summary="How far a batch is"),
        endpoint("POST", "/v1/batches/{batch}/cancel", batches.cancel, summary="Give up what is not answered"),
    ]


def own_endpoints(describe: Describe) -> list[Endpoint]:
    """Guardhouse's."""
    endpoint = describe.endpoint
    return [
        endpoint(
            "POST",
            "/v1/check",
            check,
            summary="Judge one input, several, or a stream of many: the whole verdict",
            tag="Guardhouse",
            body=CheckRequest,
            result=FullVerdict,
            is_streamed=True,
            stream_type="application/x-ndjson",
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
    ]


def neighbour_endpoints(describe: Describe) -> list[Endpoint]:
    """Those that vLLM, SGLang and LiteLLM made known."""
    endpoint = describe.endpoint
    return [
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
