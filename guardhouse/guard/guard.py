"""The guard: text in, verdict out. `Guard.load` is the composition root.

Knows: how checkpoint, operations, engine, frames and windows are put together, and what a caller may ask.
Never knows: HTTP, files of the callers, terminals.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from guardhouse.config import Settings
from guardhouse.engine.engine import Engine, EngineConfig, EngineStats
from guardhouse.engine.request import Request, RequestResult, SamplingParams
from guardhouse.errors import ContextOverflow
from guardhouse.guard.conversation import Conversation, Role, Turn, parse_guard_prompt, parse_messages, require_unicode
from guardhouse.guard.judging import Case, Judging, settle
from guardhouse.guard.policy import Policy
from guardhouse.guard.prompt import FrameStore, PromptFrame
from guardhouse.guard.sizing import num_blocks_for, window_of
from guardhouse.guard.streaming import TextStream
from guardhouse.guard.verdict import Verdict, find_answer_ids
from guardhouse.guard.windows import cut_windows
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import Llama, load_llama
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops import load_ops

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny"
PINNED_FROM_BYTES = 64 << 20  # prefixes of smaller models are computed faster than read from disk

Judged = str | Sequence[Mapping[str, object]] | Conversation
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class GuardInfo:
    """What really runs."""

    name: str
    path: Path
    policy_name: str
    window: int  # tokens
    device: str
    num_parameters: int
    num_bytes: int
    is_embedded: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """Text that the model wrote."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    num_prompt_tokens: int
    num_completion_tokens: int


class Guard:
    """Judges text. Thread-safe; every call is `submit` and a way to wait.

    >>> with Guard.load() as guard:
    ...     guard.check("How do I bake bread?").flagged
    False
    """

    def __init__(
        self, info: GuardInfo, tokenizer: Tokenizer, engine: Engine, settings: Settings, prefix_dir: Path | None
    ) -> None:
        self.info = info
        self._tokenizer = tokenizer
        self._engine = engine
        self._threshold = settings.threshold
        self._frames = FrameStore(tokenizer)
        self._prefix_dir = prefix_dir
        self._pinned: set[Role] = set()
        self._pinner = ThreadPoolExecutor(1, thread_name_prefix="guardhouse-pin")

    @classmethod
    def load(
        cls, model: str | Path = EMBEDDED, *, settings: Settings | None = None, progress: Progress | None = None
    ) -> Self:
        """Load a checkpoint folder, or the embedded guard, and pin the default policy's prefix for users' messages.

        `progress` gets (steps done, steps in all). Raises CheckpointError, BackendError or ConfigError.
        """
        settings = settings or Settings()
        is_embedded = str(model) == EMBEDDED
        folder = EMBEDDED_FOLDER if is_embedded else Path(model)
        checkpoint = Checkpoint.open(folder)
        tokenizer = Tokenizer.load(folder)
        ops = load_ops(settings.device, settings.threads)
        window = window_of(checkpoint.config, settings)
        llama = load_llama(checkpoint, ops, settings.cache_dir, window, progress)
        engine = Engine(llama, _engine_config(llama, checkpoint, settings, window))
        prefix_dir = settings.cache_dir / "prefixes" if checkpoint.num_bytes >= PINNED_FROM_BYTES else None
        name = EMBEDDED if is_embedded else folder.resolve().name
        info = GuardInfo(
            name, folder, "", window, ops.name, checkpoint.num_parameters, checkpoint.num_bytes, is_embedded
        )
        try:
            guard = cls(info, tokenizer, engine, settings, prefix_dir)
            guard.info = replace(info, policy_name=guard._frames.default_policy.name)
            guard._pin("user")
        except BaseException:
            engine.close()
            raise
        return guard

    def submit(
        self,
        conversation: Judged,
        *,
        policy: Policy | None = None,
        threshold: float | None = None,
        all_categories: bool = False,
        timeout_s: float | None = None,
    ) -> Future[Verdict]:
        """Judge a conversation's last turn; a string is one user turn. Cancelling the future frees the work.

        Raises InputError, PolicyError, QueueFull or EngineClosed at once; the future may raise VerdictError or
        DeadlineExceeded.
        """
        conversation = _conversation(conversation)
        frame = self._frame(conversation, policy)
        prompts, spans = self._cut(conversation, frame)
        case = self._case(frame.policy, frame.role, prompts, spans, threshold, all_categories, timeout_s)
        is_default = frame.policy == self._frames.default_policy
        return self._start(case, frame.role if is_default else None)

    def submit_prompt(
        self,
        text: str,
        *,
        threshold: float | None = None,
        all_categories: bool = False,
        timeout_s: float | None = None,
    ) -> Future[Verdict]:
        """Judge a whole guard prompt that the caller wrote, by its own categories; any other text is one user turn."""
        prompt = parse_guard_prompt(text, self._frames.default_policy, instruct=self._frames.is_instruct)
        if prompt is None:
            return self.submit(text, threshold=threshold, all_categories=all_categories, timeout_s=timeout_s)
        ids = self._plain_ids(prompt.text)
        case = self._case(prompt.policy, prompt.role, [ids], [(0, len(text))], threshold, all_categories, timeout_s)
        return self._start(case, None)

    def check(self, conversation: Judged, **options: object) -> Verdict:
        """Judge and wait: `submit(...)` with the same options."""
        return self.submit(conversation, **options).result()  # type: ignore[arg-type]

    async def acheck(self, conversation: Judged, **options: object) -> Verdict:
        """Judge and await."""
        return await asyncio.wrap_future(self.submit(conversation, **options))  # type: ignore[arg-type]

    def check_many(
        self, conversations: Iterable[Judged], *, progress: Callable[[int], None] | None = None, **options: object
    ) -> list[Verdict]:
        """Judge many, in order, as many at once as the queue takes. `progress` gets the number that is done."""
        max_pending = max(1, self._engine.config.max_queue // 2)
        pending: deque[Future[Verdict]] = deque()
        verdicts: list[Verdict] = []

        def take() -> None:
            verdicts.append(pending.popleft().result())
            if progress:
                progress(len(verdicts))

        try:
            for conversation in conversations:
                if len(pending) >= max_pending:
                    take()
                pending.append(self.submit(conversation, **options))  # type: ignore[arg-type]
            while pending:
                take()
        finally:
            for future in pending:
                future.cancel()
        return verdicts

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, object]],
        *,
        sampling: SamplingParams,
        raw: bool = False,
        on_text: Callable[[str], None] | None = None,
        timeout_s: float | None = None,
    ) -> Future[Generation]:
        """Let the model write. `raw`: exactly this text; else messages, a whole guard prompt, or one user turn.

        `on_text` gets the text piece by piece, on the engine's thread. Raises ContextOverflow where prompt and
        max_tokens exceed the window.
        """
        ids = self._generation_ids(prompt, raw=raw)
        stream = TextStream(self._tokenizer)
        stops = frozenset(self._tokenizer.eos_token_ids)

        def on_token(token_id: int) -> None:
            piece = "" if token_id in stops else stream.push(token_id)
            if piece and on_text:
                on_text(piece)

        sampling = replace(sampling, stop_token_ids=sampling.stop_token_ids | stops)
        request = Request(
            np.array(ids, dtype=np.int32), sampling=sampling, on_token=on_token, deadline=_deadline(timeout_s)
        )
        inner = self._engine.submit(request)
        outer: Future[Generation] = Future()

        def finish(done: Future[RequestResult]) -> None:
            try:
                result = done.result()
                rest = stream.finish()
                if rest and on_text:
                    on_text(rest)
                generation = Generation(
                    stream.text, result.token_ids, result.finish_reason, len(ids), len(result.token_ids)
                )
            except BaseException as error:
                settle(outer, error)
            else:
                settle(outer, generation)

        outer.add_done_callback(lambda _: inner.cancel())
        inner.add_done_callback(finish)
        return outer

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def engine_stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        """Fail what is pending with EngineClosed and free the model."""
        self._pinner.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _frame(self, conversation: Conversation, policy: Policy | None) -> PromptFrame:
        if conversation.policy_text is not None:
            policy = Policy.parse(conversation.policy_text)
        return self._frames.frame(conversation.judged.role, policy)

    def _case(
        self,
        policy: Policy,
        role: Role,
        prompts: Sequence[list[int]],
        spans: Sequence[tuple[int, int]],
        threshold: float | None,
        all_categories: bool,
        timeout_s: float | None,
    ) -> Case:
        return Case(
            policy,
            role,
            self._threshold if threshold is None else threshold,
            find_answer_ids(self._tokenizer, policy),
            prompts,
            spans,
            all_categories,
            _deadline(timeout_s),
        )

    def _cut(
        self, conversation: Conversation, frame: PromptFrame
    ) -> tuple[Sequence[list[int]], Sequence[tuple[int, int]]]:
        """The conversation's ids, once, or once per window of a judged turn that is too long. Context is never cut."""
        *context, judged = conversation.turns
        num_forced = len(find_answer_ids(self._tokenizer, frame.policy).forced)
        ids = frame.ids(conversation.turns)
        room = self.info.window - num_forced
        if len(ids) <= room:
            return [ids], [(0, len(judged.content))]
        num_fixed = len(ids) - len(frame.content_ids(judged.content))
        max_tokens = room - num_fixed
        if max_tokens < min(64, self.info.window // 8):
            raise ContextOverflow(num_fixed, self.info.window)
        spans = cut_windows(judged.content, max_tokens, lambda text: len(frame.content_ids(text)))
        windows = (Turn(judged.role, judged.content[start:end]) for start, end in spans)
        return [frame.ids([*context, window]) for window in windows], spans

    def _start(self, case: Case, role: Role | None) -> Future[Verdict]:
        """Start a case; the first one of a role under the default policy waits until that role's prefix is pinned."""
        judging = Judging(case, self._engine.submit, self._tokenizer)
        if role is None or role in self._pinned:
            return judging.start()

        def pin_and_start() -> None:
            try:
                if not judging.future.done():
                    self._pin(role)
                    judging.start()
            except BaseException as error:
                settle(judging.future, error)

        self._pinner.submit(pin_and_start)
        return judging.future

    def _pin(self, role: Role) -> None:
        if role in self._pinned:
            return
        ids = np.array(self._frames.frame(role).head, dtype=np.int32)
        saved = None
        if self._prefix_dir is not None:
            key = f"{self._engine.config.model_fingerprint}-{self.info.device}".encode() + ids.tobytes()
            saved = self._prefix_dir / f"{hashlib.sha256(key).hexdigest()[:32]}.npz"
        self._engine.pin(ids, saved=saved)
        self._pinned.add(role)

    def _generation_ids(self, prompt: str | Sequence[Mapping[str, object]], *, raw: bool) -> list[int]:
        if isinstance(prompt, str):
            whole = parse_guard_prompt(prompt, self._frames.default_policy, instruct=self._frames.is_instruct)
            if raw or whole is not None:
                return self._plain_ids(prompt if raw or whole is None else whole.text)
        conversation = _conversation(prompt)
        return self._frame(conversation, None).ids(conversation.turns)

    def _plain_ids(self, text: str) -> list[int]:
        require_unicode(text, "the prompt")
        return self._tokenizer.encode(text, bos=self._tokenizer.add_bos)


def _conversation(judged: Judged) -> Conversation:
    if isinstance(judged, Conversation):
        return judged
    return Conversation((Turn("user", judged),)) if isinstance(judged, str) else parse_messages(judged)


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _engine_config(llama: Llama, checkpoint: Checkpoint, settings: Settings, window: int) -> EngineConfig:
    return EngineConfig(
        num_blocks=num_blocks_for(llama.config, settings, window),
        max_model_len=window,
        block_size=settings.block_size,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queue=settings.max_queue,
        model_fingerprint=checkpoint.fingerprint,
    )
