"""One request on its way through the engine: its sequence, its future, and what was gathered for its result.

Knows: the request, its own logits and tokens, the clock.
Never knows: other requests, blocks, the model.
"""

import secrets
import time
from array import array
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.kv_cache import PrefixFile
from guardhouse.engine.request import Drawn, Request, RequestResult, SamplingParams
from guardhouse.engine.sampler import Sampler, validate_sampling, with_logprobs
from guardhouse.engine.sequence import ROOT_CONTENT, Sequence
from guardhouse.errors import ContextOverflow

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pin:
    """What is to be done with the blocks of a prefix that is computed once and kept."""

    file: PrefixFile | None = None  # read if it holds the prefix, so that nothing need be computed; else written


class Job:
    """Gathers the rows and tokens of one request. The engine thread alone changes it after submission."""

    def __init__(
        self,
        job_id: int,
        request: Request,
        vocab_size: int,
        window: int,
        *,
        pin: Pin | None = None,
        root_content: int = ROOT_CONTENT,
    ) -> None:
        self.id = job_id
        self.request = request
        self.pin = pin
        self.future: Future[RequestResult] = Future()
        # A pin's last logits are not reported; they tell whether the prefix is sound.
        wants_last = request.sampling is not None or request.decide is not None or pin is not None
        tokens = array("i", np.ascontiguousarray(request.token_ids, dtype=np.int32).tobytes())
        self.sequence = Sequence(
            job_id,
            tokens,
            request.logit_positions,
            wants_last=wants_last,
            adapter=request.adapter,
            root_content=root_content,
        )
        self._wanted = frozenset(request.logit_positions)
        self._vocab_size = vocab_size
        self._window = window
        self._rows: dict[int, Float32] = {}  # position -> logits, until the prompt is done
        self._whole: Float32 | None = None  # what _rows would hold, where one step gave all of it
        self._logits: Float32 | None = None  # [len(logit_positions), vocab], from then on
        self._sampler: Sampler | None = None
        self._drawn: list[Drawn] = []  # if log probabilities were asked for
        self._submitted_s = time.monotonic()
        self.started_s: float | None = None

    def take_rows(self, positions: list[int], rows: Float32) -> None:
        """Keep the rows that are reported: where one step gives them all, as they lie, since copies take long."""
        if self._logits is not None:
            return
        if tuple(positions) == self.request.logit_positions:
            self._whole = rows
        else:
            wanted = self._wanted
            self._rows.update(pair for pair in zip(positions, rows, strict=True) if pair[0] in wanted)

    def next_token(self, rows: Float32) -> RequestResult | None:
        """Go on from the newest token, whose logits are the last of `rows`. The result, if nothing is left to do."""
        if self._logits is None:
            self._logits = self._stacked_rows()
            params = self._decided(self._logits)
            if params is None:
                return self.result("prefill")
            self._sampler = self._new_sampler(params)
        assert self._sampler is not None, "the prompt's end made it"
        constraint = self.request.constraint
        token = self._sampler.draw(rows[-1], None if constraint is None else constraint.allowed())
        self.sequence.tokens.append(token)
        if self._is_enough(token, rows[-1]) or token in self._sampler.params.stop_token_ids:
            return self.result("stop")
        if self._sampler.num_drawn >= self._sampler.params.max_tokens:
            return self.result("length")
        if constraint is not None:
            constraint.accept(token)
        return None

    def result(self, finish_reason: str) -> RequestResult:
        """What was gathered so far."""
        assert self.started_s is not None
        return RequestResult(
            logits=self._stacked_rows() if self._logits is None else self._logits,
            token_ids=tuple(self.sequence.tokens[self.sequence.num_prompt_tokens :]),
            finish_reason=finish_reason,
            num_prompt_tokens=self.sequence.num_prompt_tokens,
            num_cached_tokens=self.sequence.num_cached_tokens or 0,
            queue_s=self.started_s - self._submitted_s,
            run_s=time.monotonic() - self.started_s,
            drawn=tuple(self._drawn),
            seed=None if self._sampler is None else self._sampler.seed,
        )

    def _is_enough(self, token: int, logits: Float32) -> bool:
        """Tell the caller of a token."""
        drawn = Drawn(token)
        if self.request.num_logprobs is not None:
            drawn = with_logprobs(token, logits, self.request.num_logprobs)
            self._drawn.append(drawn)
        return self.request.on_token is not None and bool(self.request.on_token(drawn))

    def _decided(self, logits: Float32) -> SamplingParams | None:
        if self.request.decide is None:
            return self.request.sampling
        params = self.request.decide(logits)
        if params is not None:
            validate_sampling(params)
            num_tokens = self.sequence.num_prompt_tokens + params.max_tokens
            if num_tokens > self._window:
                raise ContextOverflow(num_tokens, self._window)
        return params

    def _new_sampler(self, params: SamplingParams) -> Sampler:
        seed = secrets.randbits(53) if params.seed is None else params.seed  # 53 bits: exact in JSON
        return Sampler(params, seed, self.sequence.tokens, self._vocab_size)

    def _stacked_rows(self) -> Float32:
        if self._whole is not None:
            return self._whole
        logits = np.empty((len(self.request.logit_positions), self._vocab_size), dtype=np.float32)
        for index, position in enumerate(self.request.logit_positions):
            logits[index] = self._rows[position]
        self._rows.clear()
        return logits
