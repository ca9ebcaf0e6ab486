"""How likely given tokens are to come next: the bare number behind a score, for callers who bring their own prompt.

Knows: token ids, logits.
Never knows: text, policies, what a label means.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guardhouse.engine.request import Request, RequestResult
from guardhouse.errors import InputError
from guardhouse.guard.judging import Submit, then

LogProbs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """What is asked: after these ids, how likely is each label?"""

    token_ids: Sequence[int]
    labels: Sequence[int]
    deadline: float | None = None


def label_log_probs(request: LabelRequest, submit: Submit, vocab_size: int) -> Future[LogProbs]:
    """One forward pass, no sampling. Raises InputError for a label outside the vocabulary."""
    labels = np.array(request.labels, dtype=np.int64)
    if not labels.size:
        raise InputError("label_token_ids must hold at least one token id")
    if labels.min() < 0 or labels.max() >= vocab_size:
        raise InputError(f"label_token_ids must be between 0 and {vocab_size - 1}")

    def finish(result: RequestResult) -> LogProbs:
        logits = result.logits[0].astype(np.float64)
        top = logits.max()
        log_probs: LogProbs = logits[labels] - top - np.log(np.exp(logits - top).sum())
        return log_probs

    token_ids = np.array(request.token_ids, dtype=np.int32)
    rows = (len(token_ids) - 1,)
    return then(submit(Request(token_ids, logit_positions=rows, deadline=request.deadline)), finish)
