"""How long a step will take, learnt from the steps before it; and how much of a step is left to hand out.

    seconds = fixed + per_token * tokens + per_pair * pairs          pairs: (new token, token it attends to)

The scheduler fills a step up to a time, so that whoever arrives meanwhile does not wait long; a count of tokens alone
would be milliseconds on a small model and a quarter of a minute on a large one.

Knows: numbers of tokens, seconds.
Never knows: sequences, tensors, devices.
"""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

MIN_TOKENS = 128  # a step never gets less to do: one verdict of the 7B guard behind its cached head (60 + 64 + 3)
MIN_LEARNT_TOKENS = 16  # smaller steps are bound by reading the weights and say nothing of what a prompt costs
NUM_REMEMBERED = 32  # steps
DECAY = 0.9  # weight of a step after the next one: the last ten or so count
REFIT_EVERY = 16  # steps; the first ones are fitted at once
SCALE = np.array([1.0, 1e2, 1e5])  # brings the three columns near each other, for the ridge's sake
RIDGE = 1e-6


class StepCost:
    """Decayed least squares over the last steps; coefficients are never negative.

    >>> cost = StepCost()
    >>> for tokens in (20, 30, 40, 80):
    ...     cost.observe(tokens, 0, 0.5 + 0.01 * tokens)
    >>> round(cost.seconds(100, 0), 2)
    1.5
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[int, int, float]] = deque(maxlen=NUM_REMEMBERED)
        self._num_observed = 0
        self._fixed_s = 0.0
        self.is_known = False  # a step was learnt from
        self.per_token_s = 0.0
        self.per_pair_s = 0.0

    def observe(self, num_tokens: int, num_pairs: int, seconds: float) -> None:
        """Learn from a step that was measured. Cheap but for one call in sixteen."""
        if num_tokens < MIN_LEARNT_TOKENS:
            return
        self._steps.append((num_tokens, num_pairs, seconds))
        self._num_observed += 1
        self.is_known = True
        if self._num_observed <= REFIT_EVERY or self._num_observed % REFIT_EVERY == 0:
            self._fixed_s, self.per_token_s, self.per_pair_s = _fit(np.array(self._steps))

    def seconds(self, num_tokens: int, num_pairs: int) -> float:
        """What such a step is expected to take; 0 while nothing is known."""
        return self._fixed_s + self.per_token_s * num_tokens + self.per_pair_s * num_pairs


class StepBudget:
    """What is left of one step: at most so many tokens, and so many seconds on top of its fixed cost.

    While nothing is known of the cost, it is as few tokens as a step may have: else the first step of a large model on
    a slow machine would take a quarter of a minute.
    """

    def __init__(self, cost: StepCost, max_tokens: int, target_s: float) -> None:
        self._cost = cost
        self._floor = min(MIN_TOKENS, max_tokens)  # tokens that are handed out whatever they cost
        self._num_tokens = max_tokens if cost.is_known or math.isinf(target_s) else self._floor
        self._seconds = target_s

    def __bool__(self) -> bool:
        return self._num_tokens > 0 and (self._floor > 0 or self._seconds > 0)

    def spend_decode(self, context: int) -> None:
        """Hand out the one token of a sequence that decodes. The floor is for prompts: these must not starve them."""
        self._floor += 1
        self.spend(1, context)

    def spend(self, num_tokens: int, context: int) -> None:
        """Hand out `num_tokens` tokens that follow `context` tokens."""
        self._num_tokens -= num_tokens
        self._floor -= num_tokens
        pairs = num_tokens * context + num_tokens * num_tokens / 2
        self._seconds -= self._cost.per_token_s * num_tokens + self._cost.per_pair_s * pairs

    def fitting(self, context: int, share: float = 1.0) -> int:
        """How many tokens after `context` tokens fit into this share of what is left."""
        most = -(-self._num_tokens * share // 1)
        slope = self._cost.per_token_s + self._cost.per_pair_s * context
        seconds = max(0.0, self._seconds * share)
        if slope > 0 or self._cost.per_pair_s > 0:
            most = min(most, _positive_root(self._cost.per_pair_s / 2, slope, seconds))
        floor = max(0, -(-self._floor * share // 1))
        return int(max(most, min(floor, self._num_tokens)))


def _positive_root(a: float, b: float, c: float) -> float:
    """x >= 0 with a x^2 + b x = c, for a, b, c >= 0 and a + b > 0; written so that nothing cancels."""
    return float(2 * c / (b + (b * b + 4 * a * c) ** 0.5)) if c > 0 else 0.0


def _fit(steps: NDArray[np.float64]) -> tuple[float, float, float]:
    """steps: [n, 3], tokens, pairs, seconds, oldest first. Least squares without negative coefficients.

    Errors per token count: long steps must not drown short ones, nor slow ones the fast ones after them. The most negative
    coefficient is set to 0 until none is left.
    """
    tokens, _, seconds = steps.T
    weights = DECAY ** np.arange(len(steps) - 1, -1, -1) / tokens**2
    rows = np.column_stack([np.ones(len(steps)), steps[:, :2]]) / SCALE
    kept = [0, 1, 2]
    coefficients = np.zeros(3)
    while kept:
        columns = rows[:, kept]
        gram = columns.T @ (weights[:, None] * columns)
        gram += RIDGE * np.trace(gram) * np.eye(len(kept))
        solution = np.linalg.solve(gram, columns.T @ (weights * seconds))
        if solution.min() >= 0:
            coefficients[kept] = solution
            break
        del kept[int(solution.argmin())]
    fixed, per_token, per_pair = coefficients / SCALE
    return float(fixed), float(per_token), float(per_pair)
