"""Grammars: which tokens of a text may come next, so that the text meets a JSON Schema or a Lark grammar.

Knows: llguidance's matchers, token masks, what a grammar may cost.
Never knows: requests, steps, what a text is for.

A grammar comes from strangers, so it is tried in a child process first (grammar_sandbox.py: bounded seconds and memory),
then compiled on a thread of its own. Masks are worked out on another, while the model computes: their cost per token is
bounded by LIMITS. Matching is exact and knows nothing but the tokens so far, so the same seed gives the same text.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.grammar_sandbox import GrammarSandbox, explain
from guardhouse.errors import EngineClosed, QueueFull, SchemaError, SchemaUnmet

if TYPE_CHECKING:  # 10 ms to import, and few callers constrain a text
    from llguidance import LLMatcher, LLTokenizer

MAX_SOURCE_BYTES = 64 * 1024
MAX_PENDING = 16  # grammars that wait to be compiled
NUM_KEPT = 32  # compiled grammars kept for the next request, the most recently used
COMPACT = {"whitespace_flexible": False}  # one spelling per value: fewer tokens, and no endless white space
# Steps of a matcher are counted, not timed: 20,000 items a millisecond, 14,000 units of fuel a millisecond.
LIMITS: dict[str, Any] = {"step_max_items": 50_000, "step_lexer_fuel": 100_000, "max_lexer_states": 50_000}


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as text: a JSON Schema, or a Lark grammar as llguidance reads it."""

    kind: Literal["json_schema", "lark"]
    text: str

    @classmethod
    def of_schema(cls, schema: object) -> "GrammarSource":
        """Raises SchemaError for what is no JSON object, or is too large or too deep."""
        if not isinstance(schema, dict):
            raise SchemaError("the JSON schema must be an object")
        try:
            text = msgspec.json.encode(schema).decode()
        except (RecursionError, OverflowError, ValueError):  # too deep, a lone surrogate
            raise SchemaError("the JSON schema cannot be read") from None
        if len(text) > MAX_SOURCE_BYTES:
            raise SchemaError(f"the JSON schema is larger than {MAX_SOURCE_BYTES // 1024} KiB")
        return cls("json_schema", text)


class Grammar:
    """A compiled grammar. Never changed; any number of texts may be held to it at once."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, pool: ThreadPoolExecutor) -> None:
        self._prototype = matcher
        self._vocab_size = vocab_size
        self._pool = pool
        self._lock = threading.Lock()

    def constraint(self) -> "GrammarConstraint":
        """The state of one new text."""
        with self._lock:
            matcher = self._prototype.deep_copy()
        return GrammarConstraint(matcher, self._vocab_size, self._pool)


class GrammarConstraint:
    """What one text may go on with (engine/request.py: Constraint). Invariant: `_mask` belongs to the tokens so far."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int, pool: ThreadPoolExecutor) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._pool = pool
        self._mask = self._pool.submit(self._mask_after, None)

    def when_ready(self, call: Callable[[], None]) -> bool:
        if self._mask.done():
            return True
        self._mask.add_done_callback(lambda _: call())
        return False

    def allowed(self) -> NDArray[np.bool_]:
        return self._mask.result()

    def accept(self, token_id: int) -> None:
        self._mask = self._pool.submit(self._mask_after, token_id)

    def is_met_by(self, last_token_id: int) -> bool:
        """Whether the text is complete if it ends with this token, the one drawn from the newest mask."""
        return self._matcher.consume_token(last_token_id) and self._matcher.is_accepting()

    def _mask_after(self, token_id: int | None) -> NDArray[np.bool_]:
        if token_id is not None:
            self._matcher.consume_token(token_id)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            raise SchemaUnmet("the grammar became too costly, or nothing may follow")
        return allowed


class GrammarCompiler:
    """Compiles grammars for one tokenizer, the most recent ones once. Thread-safe."""

    def __init__(self, tokenizer_json: Callable[[], str], vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """`vocab_size`: the width of the model's logits, which may be larger than the tokenizer's own."""
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._sandbox = GrammarSandbox(LIMITS)
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="guardhouse-compile")
        self._masking = ThreadPoolExecutor(2, thread_name_prefix="guardhouse-mask")
        self._kept: OrderedDict[GrammarSource, Future[Grammar]] = OrderedDict()
        self._lock = threading.RLock()  # a future that is done already calls back at once
        self._building = threading.Lock()

    def compile(self, source: GrammarSource) -> Future[Grammar]:
        """The future raises SchemaError. QueueFull where too many wait already; EngineClosed after `close`.

        Equal sources share one future: it is not to be cancelled.
        """
        with self._lock:
            if source in self._kept:
                self._kept.move_to_end(source)
                return self._kept[source]
            if sum(not future.done() for future in self._kept.values()) >= MAX_PENDING:
                raise QueueFull(retry_after_s=1)
            try:
                future = self._compiling.submit(self._compile, source)
            except RuntimeError as error:
                raise EngineClosed("the engine is closed") from error
            self._kept[source] = future
            future.add_done_callback(partial(self._forget_failure, source))
            if len(self._kept) > NUM_KEPT:
                self._kept.popitem(last=False)
            return future

    def prepare(self) -> None:
        """Build what every grammar needs: 0.15 s for 12,000 tokens, during which llguidance holds up all of Python."""
        self._llguidance_tokenizer()

    def close(self) -> None:
        """Compile nothing more. To be called after the engine that uses the grammars has closed."""
        self._sandbox.close()
        for pool in (self._compiling, self._masking):
            pool.shutdown(wait=False, cancel_futures=True)

    def _forget_failure(self, source: GrammarSource, done: Future[Grammar]) -> None:
        """A grammar that took too long may have had a busy machine to blame: whoever asks again gets another try."""
        if done.cancelled() or done.exception() is not None:
            with self._lock:
                self._kept.pop(source, None)

    def _compile(self, source: GrammarSource) -> Grammar:
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415  # not at start: few callers need it

        grammar = _grammar_text(source)
        self._sandbox.check(grammar)
        limits = LLParserLimits(verbose_errors=False, **LIMITS)
        matcher = LLMatcher(self._llguidance_tokenizer(), grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise SchemaError(explain(matcher.get_error()))
        return Grammar(matcher, self._vocab_size, self._masking)

    def _llguidance_tokenizer(self) -> "LLTokenizer":
        from llguidance import LLTokenizer  # noqa: PLC0415

        with self._building:
            if self._tokenizer is None:
                eos: Any = self._eos_token_ids or None
                self._tokenizer = LLTokenizer(self._tokenizer_json(), n_vocab=self._vocab_size, eos_token=eos)
            return self._tokenizer


def _grammar_text(source: GrammarSource) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415

    try:
        if source.kind == "lark":
            return LLMatcher.grammar_from_lark(source.text)
        return LLMatcher.grammar_from_json_schema(source.text, overrides=COMPACT)  # type: ignore[arg-type]
    except ValueError as error:
        raise SchemaError(explain(str(error))) from None
