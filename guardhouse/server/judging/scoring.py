"""Tokens and their probabilities, in the forms of vLLM and SGLang: /tokenize, /detokenize, /generative_scoring, /v1/score.

Knows: those servers' bodies and replies.
Never knows: what a label means, policies.

A prompt is `query` and an item, in that order unless `item_first`. Both servers answer with probabilities of the labels as
the next token, over the labels alone (`apply_softmax`, vLLM's default) or over the whole vocabulary (SGLang's default).
vLLM cuts query and items into tokens apart and puts BOS before the query; SGLang joins them as text first. So do we.
Nothing is cut off: a prompt that exceeds the window is an error.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError
from guardhouse.guard.guard import Guard
from guardhouse.guard.labels import LogProbs
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.server.context import Context, decode_body
from guardhouse.server.judging.judge import parse_policy
from guardhouse.server.submission import off_loop

MAX_ITEMS = 128  # all of them wait in the queue at once
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Ids = list[int]


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A `prompt` as text, or `messages`: then the ids are those that the guard would judge them by."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    policy: str | None = None
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    tokens: list[TokenId]
    model: str | None = None


class GenerativeScoringRequest(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's. Text or ids, but query and items alike."""

    query: str | list[TokenId]
    items: list[str | list[TokenId]]
    label_token_ids: list[TokenId]
    model: str | None = None
    apply_softmax: bool = True
    item_first: bool = False
    add_special_tokens: bool = True


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True):
    """SGLang's."""

    query: str | list[TokenId]
    items: str | list[str | list[TokenId]]
    label_token_ids: list[TokenId]
    model: str | None = None
    apply_softmax: bool = False
    item_first: bool = False


async def tokenize(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, TokenizeRequest)
    context.require_model(asked.model)
    tokenizer = context.guard.tokenizer
    if (asked.prompt is None) == (asked.messages is None):
        raise InputError("give either 'prompt' or 'messages'")
    ids = await off_loop(lambda: _asked_ids(asked, context.guard), len(body))
    strings = [tokenizer.token(token_id) for token_id in ids] if asked.return_token_strs else None
    window = context.guard.info.window
    return context.reply({"count": len(ids), "max_model_len": window, "tokens": ids, "token_strs": strings})


def _asked_ids(asked: TokenizeRequest, guard: Guard) -> Ids:
    if asked.prompt is None:
        return guard.prompt_ids(asked.messages or [], policy=parse_policy(asked.policy))
    return guard.tokenizer.encode(asked.prompt, bos=asked.add_special_tokens and guard.tokenizer.add_bos)


async def detokenize(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, DetokenizeRequest)
    context.require_model(asked.model)
    _require_known(asked.tokens, context.guard.tokenizer, "tokens")
    return context.reply({"prompt": context.guard.tokenizer.decode(asked.tokens, skip_special=False)})


async def generative_scoring(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, GenerativeScoringRequest)
    model = context.require_model(asked.model)
    tokenizer = context.guard.tokenizer

    def cut() -> list[Ids]:
        query = _ids(asked.query, tokenizer, bos=asked.add_special_tokens and tokenizer.add_bos)
        items = (_ids(item, tokenizer, bos=False) for item in asked.items)
        return [[*item, *query] if asked.item_first else [*query, *item] for item in items]

    _require_few(asked.items)
    prompts = await off_loop(cut, len(body))
    rows = await _probabilities(context, prompts, asked.label_token_ids, softmax=asked.apply_softmax)
    num_tokens = sum(map(len, prompts))
    return context.reply(
        {
            "id": f"generative-scoring-{context.id}",
            "object": "list",
            "created": int(time.time()),
            "model": model,
            "data": [{"index": index, "object": "score", "score": row[0]} for index, row in enumerate(rows)],
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0},
        }
    )


async def score(context: Context, _: Request, body: bytes) -> Response:
    asked = decode_body(body, ScoreRequest)
    model = context.require_model(asked.model)
    items = [asked.items] if isinstance(asked.items, str) else asked.items
    _require_few(items)
    join = partial(_joined, asked.query, tokenizer=context.guard.tokenizer, item_first=asked.item_first)
    prompts = await off_loop(lambda: list(map(join, items)), len(body))
    rows = await _probabilities(context, prompts, asked.label_token_ids, softmax=asked.apply_softmax)
    return context.reply({"scores": rows, "model": model, "usage": None, "object": "scoring"})


def _joined(query: str | Ids, item: str | Ids, tokenizer: Tokenizer, *, item_first: bool) -> Ids:
    if isinstance(query, str) and isinstance(item, str):
        text = item + query if item_first else query + item
        return tokenizer.encode(text, bos=tokenizer.add_bos)
    if isinstance(query, str) or isinstance(item, str):
        raise InputError("'query' and 'items' must both be text, or both token ids")
    return [*item, *query] if item_first else [*query, *item]


def _ids(given: str | Ids, tokenizer: Tokenizer, *, bos: bool) -> Ids:
    return tokenizer.encode(given, bos=bos) if isinstance(given, str) else given


async def _probabilities(
    context: Context, prompts: Sequence[Ids], labels: Sequence[int], *, softmax: bool
) -> list[list[float]]:
    """[prompts][labels]."""
    seconds = context.remaining_s
    futures = [context.guard.next_token_log_probs(prompt, labels, timeout_s=seconds) for prompt in prompts]
    try:
        rows = await asyncio.gather(*map(asyncio.wrap_future, futures))
    finally:
        for future in futures:
            future.cancel()
    return [_over_labels(row) if softmax else np.exp(row).tolist() for row in rows]


def _require_few(items: Sequence[object]) -> None:
    if not 0 < len(items) <= MAX_ITEMS:
        raise InputError(f"'items' must hold 1 to {MAX_ITEMS} items")


def _over_labels(row: LogProbs) -> list[float]:
    weights = np.exp(row - row.max())
    shares: list[float] = (weights / weights.sum()).tolist()
    return shares


def _require_known(ids: Sequence[int], tokenizer: Tokenizer, name: str) -> None:
    if any(token_id >= tokenizer.vocab_size for token_id in ids):
        raise InputError(f"'{name}' holds an id outside the vocabulary of {tokenizer.vocab_size}")
