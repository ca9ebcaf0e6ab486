"""The guard: text in, verdict out. `Guard.load` is the composition root.

Knows: how checkpoint, operations, engine and frames are put together, and what a caller may ask.
Never knows: HTTP, files of the callers, terminals.
"""

import asyncio
import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from guardhouse.config import Settings
from guardhouse.engine.engine import Engine, EngineStats
from guardhouse.engine.grammar import Grammar, GrammarCompiler, GrammarSource
from guardhouse.guard.cases import Cases, Judged, JudgeOptions, Limits, PromptOptions, as_conversation, deadline_after
from guardhouse.guard.conversation import Role
from guardhouse.guard.generating import GenerateOptions, Generation, GenerationTask, start_generation
from guardhouse.guard.judging import Case, Judging, Submit
from guardhouse.guard.labels import LabelRequest, LogProbs, label_log_probs
from guardhouse.guard.many import submit_many
from guardhouse.guard.pins import Pins
from guardhouse.guard.policy import Policy
from guardhouse.guard.prompt import FrameStore
from guardhouse.guard.rendering import Rendering, render_parts
from guardhouse.guard.sizing import engine_config, window_of
from guardhouse.guard.verdict import Verdict
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import load_llama
from guardhouse.model.lora import Adapter, AdapterReader
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.ops import load_ops

EMBEDDED = "embedded"
EMBEDDED_FOLDER = Path(__file__).parent.parent / "assets" / "tiny"
PINNED_FROM_BYTES = 64 << 20  # prefixes of smaller models are computed faster than read from disk
ANSWERS_REMEMBERED = 1024

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
    adapter: str | None = None  # under which every answer is given


class Guard:
    """Judges text. Thread-safe; every call is `submit` and a way to wait.

    >>> with Guard.load() as guard:
    ...     guard.check("How do I bake bread?").flagged
    False
    """

    def __init__(
        self,
        info: GuardInfo,
        frames: FrameStore,
        engine: Engine,
        grammars: GrammarCompiler,
        threshold: float,
        pins: Pins | None,
        adapters: AdapterReader,
    ) -> None:
        self.info = info
        self._frames = frames
        self._tokenizer = frames.tokenizer
        self._engine = engine
        self._grammars = grammars
        self._cases = Cases(frames, Limits(info.window, engine.config.max_queue, threshold))
        self._pins = pins
        self._adapters = adapters
        self._submit: Submit = engine.submit
        self._answer_lengths = lru_cache(ANSWERS_REMEMBERED)(self.count_tokens)

    @classmethod
    def load(
        cls, model: str | Path = EMBEDDED, *, settings: Settings | None = None, progress: Progress | None = None
    ) -> Self:
        """Load a checkpoint folder, or the embedded guard, and pin the default policy's prefix for users' messages.

        `progress` gets (steps done, steps in all). Raises CheckpointError, AdapterError, BackendError or ConfigError.
        """
        settings = settings or Settings()
        is_embedded = str(model) == EMBEDDED
        folder = EMBEDDED_FOLDER if is_embedded else Path(model)
        checkpoint = Checkpoint.open(folder)
        tokenizer = Tokenizer.load(folder)
        frames = FrameStore(tokenizer)
        ops = load_ops(settings.device, settings.threads)
        window = window_of(checkpoint.config, settings)
        llama = load_llama(checkpoint, ops, settings.cache_dir, window, progress)
        engine = Engine(llama, engine_config(checkpoint.config, settings, window, ops, checkpoint.fingerprint))
        grammars = GrammarCompiler(tokenizer.as_json, checkpoint.config.vocab_size, tokenizer.eos_token_ids)
        info = GuardInfo(
            name=EMBEDDED if is_embedded else folder.resolve().name,
            path=folder,
            policy_name=frames.default_policy.name,
            window=window,
            device=ops.name,
            num_parameters=checkpoint.num_parameters,
            num_bytes=checkpoint.num_bytes,
            is_embedded=is_embedded,
            adapter=settings.adapter.resolve().name if settings.adapter else None,
        )
        saved_dir = settings.cache_dir / "prefixes" if checkpoint.num_bytes >= PINNED_FROM_BYTES else None
        pins = Pins(engine, frames, saved_dir, ops.name)
        adapters = AdapterReader(checkpoint.config, ops)
        guard = cls(info, frames, engine, grammars, settings.threshold, pins, adapters)
        try:
            if settings.adapter is not None:
                return guard.with_adapter(guard.load_adapter(settings.adapter))
            pins.pin("user")
        except BaseException:
            guard.close()
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

        `policy`: instead of the checkpoint's own; a category list in a system message comes before both.
        `threshold`: the score from which the turn is flagged. `all_categories`: name every category that the model
        would, not only the likeliest. Raises InputError, PolicyError, QueueFull or EngineClosed at once; the future may
        raise these, VerdictError or DeadlineExceeded.
        """
        case = self._cases.of_conversation(
            as_conversation(conversation),
            policy=policy,
            threshold=threshold,
            all_categories=all_categories,
            timeout_s=timeout_s,
        )
        return self._start(case, case.role if case.policy == self._frames.default_policy else None)

    def submit_prompt(self, text: str, **options: Unpack[PromptOptions]) -> Future[Verdict]:
        """Judge a whole guard prompt that the caller wrote, by its own categories; any other text is one user turn."""
        case = self._cases.of_prompt(text, **options)
        return self.submit(text, **options) if case is None else self._start(case, None)

    def check(self, conversation: Judged, **options: Unpack[JudgeOptions]) -> Verdict:
        """Judge and wait."""
        return self.submit(conversation, **options).result()

    async def acheck(self, conversation: Judged, **options: Unpack[JudgeOptions]) -> Verdict:
        """Judge and await."""
        return await asyncio.wrap_future(self.submit(conversation, **options))

    def check_many(
        self,
        conversations: Iterable[Judged],
        *,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[JudgeOptions],
    ) -> list[Verdict]:
        """Judge many, in order. `progress` gets the number that is done. The first error ends it."""
        max_pending = max(1, self._engine.config.max_queue // 2)
        return submit_many(lambda one: self.submit(one, **options), conversations, max_pending, progress)

    def generate(
        self, prompt: str | Sequence[Mapping[str, object]], **options: Unpack[GenerateOptions]
    ) -> Future[Generation]:
        """Let the model write. `prompt`: messages, a whole guard prompt, or one user turn; with `raw`, exactly this text.

        `lead`: what the model is to have answered already; it goes on from there. `grammar`: what its text is held to
        (see `compile_schema`). `stop`: strings before which the text ends. `num_logprobs`: report the log probability of
        every token and of that many likeliest ones. `on_piece` gets the text piece by piece, on the engine's thread.
        Raises InputError, ContextOverflow where prompt and max_tokens exceed the window, QueueFull or EngineClosed at
        once; the future may raise SchemaUnmet, VerdictError or DeadlineExceeded.
        """
        task = GenerationTask(
            prompt_ids=self._cases.generation_ids(prompt, raw=options.get("raw", False), lead=options.get("lead", "")),
            sampling=options["sampling"],
            grammar=options.get("grammar"),
            stop=options.get("stop", ()),
            num_logprobs=options.get("num_logprobs"),
            on_piece=options.get("on_piece"),
            deadline=deadline_after(options.get("timeout_s")),
        )
        return start_generation(task, self._submit, self._tokenizer)

    def load_adapter(self, folder: Path) -> Adapter:
        """Read a LoRA adapter in PEFT's format. Raises AdapterError, naming what is wrong with which file or tensor."""
        return self._adapters.load(folder)

    def check_adapter(self, folder: Path) -> None:
        """Raise AdapterError where `load_adapter` would; where only one of the files is there, check that one."""
        self._adapters.check(folder)

    def with_adapter(self, adapter: Adapter) -> Self:
        """This guard, judging and writing with an adapter on top of its weights. The two share all but that.

        >>> tuned = guard.with_adapter(guard.load_adapter(Path("my-adapter")))  # doctest: +SKIP
        """
        view = copy.copy(self)
        view._submit = lambda request: self._engine.submit(replace(request, adapter=adapter))
        view._pins = None  # they were computed without it
        return view

    def compile_schema(self, schema: object) -> Future[Grammar]:
        """A JSON Schema as a grammar for `generate`. Raises SchemaError or QueueFull; so may the future, which callers
        share: it is not to be cancelled.

        >>> grammar = guard.compile_schema({"enum": ["yes", "no"]}).result()
        >>> guard.generate("Is it?", sampling=SamplingParams(), grammar=grammar).result().text
        '"no"'
        """
        return self._grammars.compile(GrammarSource.of_schema(schema))

    def compile_grammar(self, lark: str) -> Future[Grammar]:
        """The same for a grammar in llguidance's dialect of Lark."""
        return self._grammars.compile(GrammarSource("lark", lark))

    def prepare_grammars(self) -> None:
        """Do now what the first `compile_schema` would hold up every thread with; servers do it before they are ready."""
        self._grammars.prepare()

    def next_token_log_probs(
        self, token_ids: Sequence[int], labels: Sequence[int], *, timeout_s: float | None = None
    ) -> Future[LogProbs]:
        """[len(labels)]: log P of each of these tokens coming next, over the whole vocabulary."""
        request = LabelRequest(token_ids, labels, deadline_after(timeout_s))
        return label_log_probs(request, self._submit, self._tokenizer.vocab_size)

    def prompt_ids(self, conversation: Judged, *, policy: Policy | None = None) -> list[int]:
        """The token ids that judging this conversation would begin with."""
        conversation = as_conversation(conversation)
        return self._cases.frame(conversation, policy).ids(conversation.turns)

    def policy_of(self, conversation: Judged, *, policy: Policy | None = None) -> Policy:
        """The policy that judges this conversation: a system message's, else `policy`, else the checkpoint's own."""
        return self._cases.policy_of(as_conversation(conversation), policy)

    def render(self, conversation: Judged, *, policy: Policy | None = None) -> Rendering:
        """The prompt that `submit` would have the model read, before it is cut into windows. Raises as `submit` does."""
        conversation = as_conversation(conversation)
        frame = self._cases.frame(conversation, policy)
        return render_parts(self._frames.layout(frame.role, frame.policy), frame, conversation.turns)

    @property
    def default_policy(self) -> Policy:
        """The checkpoint's own."""
        return self._frames.default_policy

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text))

    def count_answer_tokens(self, text: str) -> int:
        """The length of a verdict's text. There are few such texts, so their lengths are remembered."""
        return self._answer_lengths(text)

    def engine_stats(self) -> EngineStats:
        return self._engine.stats()

    def close(self) -> None:
        """Fail what is pending with EngineClosed and free the model."""
        if self._pins is not None:
            self._pins.close()
        self._engine.close()
        self._grammars.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, case: Case, role: Role | None) -> Future[Verdict]:
        """`role`: whose pinned prefix the prompts begin with; None: nobody's."""
        judging = Judging(case, self._submit, self._tokenizer)
        return judging.start() if role is None or self._pins is None else self._pins.start(judging, role)
