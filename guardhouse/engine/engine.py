"""The engine's face: submit token ids from any thread, get a future.

Knows: limits, requests, the parts that it is made of.
Never knows: text, safety, how a step is planned or run.

Example:
    with Engine(model, EngineConfig(num_blocks=256, max_model_len=4096)) as engine:
        future = engine.submit(Request(token_ids, logit_positions=(len(token_ids) - 1,)))
        logits = future.result().logits
"""

import itertools
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.block_manager import BlockManager
from guardhouse.engine.job import Job, Pin
from guardhouse.engine.kv_cache import PrefixFile, prefix_key
from guardhouse.engine.loop import EngineLoop
from guardhouse.engine.request import Adapter, Request, RequestResult
from guardhouse.engine.runner import Model, Runner
from guardhouse.engine.sampler import validate_sampling
from guardhouse.engine.scheduler import Scheduler
from guardhouse.engine.sequence import ROOT_CONTENT
from guardhouse.errors import ConfigError, ContextOverflow, InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Sizes of the engine; all are at least 1."""

    num_blocks: int  # KV blocks in all, pinned ones included
    max_model_len: int  # the window: prompt and output tokens of one request
    block_size: int = 16  # tokens per KV block
    max_num_seqs: int = 64  # sequences running at once
    max_num_batched_tokens: int = 512  # tokens computed per step at most
    target_step_s: float = 1.0  # seconds that a step should take at most, as far as 128 tokens allow
    max_queue: int = 256  # requests that may wait before QueueFull
    model_fingerprint: str = ""  # of the weights; pinned prefixes are saved on disk only if it is given

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type is int and getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} must be at least 1")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Each number was right at some moment during the call; together they are no consistent cut."""

    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int  # including those that only the prefix cache still wants
    num_pinned_blocks: int
    total_prompt_tokens: int
    total_cached_tokens: int
    total_generated_tokens: int
    num_preemptions: int
    num_failed_steps: int
    num_failed_steps_in_a_row: int  # 0 once a step succeeds again; several in a row mean that the device is unwell


class Engine:
    """Runs requests on a model in one thread of its own. Thread-safe."""

    def __init__(self, model: Model, config: EngineConfig) -> None:
        if config.max_model_len > model.max_positions:
            raise ConfigError(
                f"max_model_len is above the {model.max_positions} positions that the model was loaded for"
            )
        self.config = config
        self._vocab_size = model.config.vocab_size
        self._model = model
        self._ids = itertools.count()
        self._root_ids = itertools.count(ROOT_CONTENT - 1, -1)
        self._roots: dict[str, int] = {}  # adapter's fingerprint -> root content
        self._blocks = BlockManager(config.num_blocks, config.block_size)
        self._scheduler = Scheduler(
            self._blocks, config.max_num_seqs, config.max_num_batched_tokens, config.target_step_s
        )
        self._runner = Runner(model, config.num_blocks, config.block_size)
        self._loop = EngineLoop(self._runner, self._scheduler, config.max_queue)

    def submit(self, request: Request) -> Future[RequestResult]:
        """Queue a request. Its future may be cancelled at any time; it is never "running" before it is done.

        Raises InputError, ContextOverflow, QueueFull or EngineClosed at once.
        """
        self._validate(request)
        root = self._root_content(request.adapter)
        job = Job(next(self._ids), request, self._vocab_size, self.config.max_model_len, root_content=root)
        self._loop.submit(job)
        return job.future

    def pin(self, token_ids: NDArray[np.int32], *, saved: Path | None = None) -> int:
        """Compute a prefix once, wait for it, and keep its keys and values for all requests that start with it.

        With `saved`, they are read from that file if it holds exactly these, and else written to it. Returns the number
        of pinned tokens. Pinning the same ids again does nothing. Not to be called on the engine thread.
        """
        request = Request(token_ids)
        self._validate(request)
        pin = Pin(None if saved is None else PrefixFile(saved, self._prefix_key(token_ids)))
        job = Job(next(self._ids), request, self._vocab_size, self.config.max_model_len, pin=pin)
        self._loop.submit(job)
        job.future.result()
        return len(token_ids)

    def stats(self) -> EngineStats:
        """Cheap enough for every request."""
        counters = self._loop.counters
        return EngineStats(
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting + self._loop.num_inbox,
            num_blocks=self._blocks.num_blocks,
            num_free_blocks=self._blocks.num_free_blocks,
            num_pinned_blocks=self._blocks.num_pinned_blocks,
            total_prompt_tokens=counters.prompt_tokens,
            total_cached_tokens=counters.cached_tokens,
            total_generated_tokens=counters.generated_tokens,
            num_preemptions=self._scheduler.num_preemptions,
            num_failed_steps=counters.failed_steps,
            num_failed_steps_in_a_row=counters.failed_steps_in_a_row,
        )

    def check_no_leaks(self) -> None:
        """Raise RuntimeError unless every KV block is accounted for. Only meaningful while nothing runs."""
        self._blocks.check_no_leaks(self._scheduler.running)

    def close(self) -> None:
        """Stop after the current step; pending requests fail with EngineClosed. May be called more than once."""
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _root_content(self, adapter: Adapter | None) -> int:
        """One number per adapter, the same again if it was unloaded meanwhile. Called on any thread."""
        if adapter is None:
            return ROOT_CONTENT
        return self._roots.setdefault(adapter.fingerprint, next(self._root_ids))

    def _prefix_key(self, token_ids: NDArray[np.int32]) -> str:
        if not self.config.model_fingerprint:
            raise ConfigError("saving pinned prefixes needs model_fingerprint")
        kernels = f"{self._model.ops.name}-{self._model.ops.version}"
        tokens = np.ascontiguousarray(token_ids, dtype=np.int32)
        return prefix_key(self.config.model_fingerprint, kernels, tokens, self.config.block_size)

    def _validate(self, request: Request) -> None:
        token_ids = np.asarray(request.token_ids)
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu" or not len(token_ids):
            raise InputError("token_ids must be a non-empty one-dimensional array of integers")
        if token_ids.min() < 0 or token_ids.max() >= self._vocab_size:
            raise InputError("a token id is outside the vocabulary")
        if any(not 0 <= position < len(token_ids) for position in request.logit_positions):
            raise InputError("a logit position is outside the prompt")
        if not 0 <= (request.num_logprobs or 0) <= self._vocab_size:
            raise InputError("num_logprobs must be between 0 and the size of the vocabulary")
        max_tokens = 0
        if request.sampling is not None:
            validate_sampling(request.sampling)
            max_tokens = request.sampling.max_tokens
        num_tokens = len(token_ids) + max_tokens
        capacity = self.config.num_blocks * self.config.block_size
        if num_tokens > self.config.max_model_len:
            raise ContextOverflow(num_tokens, self.config.max_model_len)
        if num_tokens > capacity + (max_tokens > 0):  # the last sampled token is never computed
            raise ContextOverflow(num_tokens, capacity)
