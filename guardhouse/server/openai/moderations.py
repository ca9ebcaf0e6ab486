"""POST /v1/moderations, as OpenAI's SDKs send it.

Knows: its body and reply; that a list of strings is many questions and a list of parts is one.
Never knows: tokens, how a verdict is found.

Beyond OpenAI's: `policy` (a category list) and `threshold` in the body; in each result our own categories beside OpenAI's
("O3: Criminal Planning"), and `verdict`, the whole of it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import InputError
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict
from guardhouse.server.context import Context, Lora, decode_body
from guardhouse.server.judging.judge import PolicyText, Question, Threshold, judge_all, parse_policy, text_question
from guardhouse.server.openai.categories import OPENAI_CATEGORIES, counterparts

# Names that OpenAI's clients send without being told to. They mean whatever guard runs here.
OPENAI_MODELS = frozenset(
    {
        "omni-moderation-latest",
        "omni-moderation-2024-09-26",
        "text-moderation-latest",
        "text-moderation-stable",
        "text-moderation-007",
    }
)


class InputPart(msgspec.Struct, frozen=True):
    """A part of one input: {"type": "text", "text": …}. Images are known, and refused."""

    type: str
    text: str | None = None


class ModerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One text, several texts, or one input in several parts."""

    input: str | list[str | InputPart]
    model: Annotated[str, Meta(description="the guard's name, or one of OpenAI's moderation models")] | None = None
    policy: PolicyText | None = None
    threshold: Threshold | None = None
    lora: Lora | None = None


class ModerationResult(msgspec.Struct, frozen=True):
    """One input's verdict. Keys are OpenAI's 13 categories, and ours as "O3: Criminal Planning"."""

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    verdict: dict[str, Any]


class ModerationReply(msgspec.Struct, frozen=True):
    id: str
    model: str
    results: list[ModerationResult]


async def moderate(context: Context, request: ModerationRequest) -> ModerationReply:
    """The reply's body. Raises InputError, PolicyError, UnknownModel, and what a judgement raises."""
    model = context.require_model(request.model, OPENAI_MODELS)
    context = await context.under(request.lora)
    policy = parse_policy(request.policy)
    questions = [
        Question(text_question(text).conversation, policy, request.threshold) for text in read_inputs(request.input)
    ]
    verdicts = await judge_all(context, questions)
    results = [result_of_verdict(verdict, policy or context.guard.default_policy) for verdict in verdicts]
    return ModerationReply(f"modr-{context.id}", model, results)


async def moderations(context: Context, _: Request, body: bytes) -> Response:
    return context.reply(await moderate(context, decode_body(body, ModerationRequest)))


def read_inputs(given: str | Sequence[str | InputPart]) -> list[str]:
    """The texts to judge, one for each result."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise InputError("'input' is empty")
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) == len(given):
        return texts
    if texts:
        raise InputError("'input' mixes texts and parts")
    return ["\n".join(_part_text(part, number) for number, part in enumerate(given) if isinstance(part, InputPart))]


def _part_text(part: InputPart, number: int) -> str:
    if part.type == "image_url":
        raise InputError(f"'input[{number}]' is an image: this guard judges text only")
    if part.type != "text" or part.text is None:
        raise InputError(f"'input[{number}]' is no text part")
    return part.text


def result_of_verdict(verdict: Verdict, policy: Policy) -> ModerationResult:
    scores, flags, applied = _openai_categories(verdict, policy)
    for category in policy.categories:
        name = f"{category.code}: {category.name}"
        scores[name] = verdict.categories[category.code]
        flags[name] = category.code in verdict.codes
        applied[name] = ["text"]
    return ModerationResult(verdict.flagged, flags, scores, applied, verdict.as_dict())


def _openai_categories(
    verdict: Verdict, policy: Policy
) -> tuple[dict[str, float], dict[str, bool], dict[str, list[str]]]:
    """All 13, as clients expect them; those that the policy has no counterpart for are false, 0 and applied to nothing."""
    sources: Mapping[str, list[str]] = {name: [] for name in OPENAI_CATEGORIES}
    for category in policy.categories:
        for name in counterparts(category.name):
            sources[name].append(category.code)
    scores = {name: max((verdict.categories[code] for code in codes), default=0.0) for name, codes in sources.items()}
    flags = {name: any(code in verdict.codes for code in codes) for name, codes in sources.items()}
    applied = {name: ["text"] if codes else [] for name, codes in sources.items()}
    return scores, flags, applied
