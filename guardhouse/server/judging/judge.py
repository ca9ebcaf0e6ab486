"""Questions about texts, and how many of them are asked at once.

Knows: conversations, policies as text, a bounded number of judgements in flight.
Never knows: routes, what a reply looks like.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from guardhouse.errors import InputError, QueueFull
from guardhouse.guard.conversation import Conversation, Role, Turn, parse_messages
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict
from guardhouse.server.context import Context
from guardhouse.server.submission import OFF_LOOP_CHARS, result_of

Threshold = Annotated[float, Meta(ge=0, le=1, description="score from which it is flagged; the server's by default")]
PolicyText = Annotated[str, Meta(description="category list to judge by, instead of the checkpoint's own")]
MAX_INPUTS = 4096  # of a request whose reply is not streamed
MAX_PENDING = 32  # judgements of one request in flight: the queue belongs to everybody


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation, and what differs from the server's defaults."""

    conversation: Conversation
    policy: Policy | None = None
    threshold: float | None = None

    @property
    def num_chars(self) -> int:
        """How much there is to cut into tokens. A policy that is new takes its time, too: a frame is built for it."""
        is_custom = self.policy is not None or self.conversation.policy_text is not None
        least = OFF_LOOP_CHARS if is_custom else 0
        return max(least, sum(len(turn.content) for turn in self.conversation.turns))


def text_question(text: str, role: Role = "user", policy: Policy | None = None) -> Question:
    """A text alone. Raises InputError for one that is empty."""
    return Question(Conversation((Turn(role, text),)), policy)


def messages_question(messages: Sequence[Mapping[str, Any]], policy: Policy | None = None) -> Question:
    """A conversation whose last turn is judged; a system message may hold its policy."""
    return Question(parse_messages(messages), policy)


def parse_policy(text: str | None) -> Policy | None:
    """A category list as callers write it, or None. Raises PolicyError."""
    return None if text is None else Policy.parse(text)


async def judge(context: Context, question: Question, timeout_s: float | None = None) -> Verdict:
    """One verdict, with every category that the model would name."""
    seconds = context.remaining_s if timeout_s is None else timeout_s

    def submit() -> Any:
        return context.guard.submit(
            question.conversation,
            policy=question.policy,
            threshold=question.threshold,
            all_categories=True,
            timeout_s=seconds,
        )

    verdict: Verdict = await result_of(submit, question.num_chars)
    context.count(verdict)
    return verdict


async def judge_all(context: Context, questions: Sequence[Question]) -> list[Verdict]:
    """Every verdict, in order, within the request's own time. The first error ends it."""
    if len(questions) > MAX_INPUTS:
        raise InputError(f"more than {MAX_INPUTS} inputs: send fewer at a time, or ask /v1/check for a stream")
    verdicts: list[Verdict | None] = [None] * len(questions)
    async for index, outcome in judge_each(context, questions):
        if isinstance(outcome, Exception):
            raise outcome
        verdicts[index] = outcome
    return [verdict for verdict in verdicts if verdict is not None]


async def judge_each(
    context: Context, questions: Iterable[Question | Exception], timeout_s: float | None = None
) -> AsyncGenerator[tuple[int, Verdict | Exception], None]:
    """(index, verdict or error) as they are found, at most MAX_PENDING in flight. `timeout_s`: for each, not for all.

    `questions` is read as far as it is needed; an error in it is its own outcome.
    """
    waiting = enumerate(questions)
    pending: dict[asyncio.Task[Verdict], int] = {}
    try:
        while True:
            while len(pending) < MAX_PENDING and (item := next(waiting, None)):
                index, question = item
                if isinstance(question, Exception):
                    yield index, question
                    await asyncio.sleep(0)  # a body of nothing but errors is not to hold up the loop
                else:
                    pending[asyncio.create_task(_judge_patiently(context, question, timeout_s))] = index
            if not pending:
                return
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield pending.pop(task), error or task.result()
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _judge_patiently(context: Context, question: Question, timeout_s: float | None) -> Verdict:
    """A full queue is waited for: what is before this question in the same request has its place already."""
    deadline = context.deadline if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            return await judge(context, question, max(0.001, deadline - time.monotonic()))
        except QueueFull as full:
            if time.monotonic() + full.retry_after_s > deadline:
                raise
            await asyncio.sleep(full.retry_after_s)
