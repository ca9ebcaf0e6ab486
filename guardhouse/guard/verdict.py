"""Logits and answer text -> Verdict, or an error. Anything unexpected is an error, never a pass.

Knows: which tokens mean safe, unsafe and each category; probabilities.
Never knows: prompts, requests, HTTP.

    … tail | unsafe \\n O | 3
           ↑            ↑
           P(unsafe)    P(code named first | unsafe)     one forward pass reads both
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import CheckpointError, PolicyError, VerdictError
from guardhouse.guard.policy import Policy
from guardhouse.model.tokenizer import Tokenizer

# Below this share of the whole vocabulary on {safe, unsafe}, the model was about to write something else: no verdict.
# Llama Guard leaves more than 0.99 there; whatever takes it under 0.05 also makes the ratio of the two meaningless.
MIN_MASS = 0.05


@dataclass(frozen=True, slots=True)
class AnswerIds:
    """The answers' token ids under one policy. For Llama Guard 7B: 9109, 25110, (25110, 13, 29949), {"O1": 29896, …}."""

    safe: int
    unsafe: int
    forced: tuple[int, ...]  # what all unsafe answers begin with, `unsafe` included
    codes: Mapping[str, int]  # the next token, which tells the categories apart
    max_length: int  # tokens of the longest answer: the one that names every category


@dataclass(frozen=True, slots=True)
class Window:
    """The part [start, end) of the judged turn, in characters, and its score."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one forward pass says about one window."""

    score: float  # P(unsafe) over {safe, unsafe}
    mass: float  # P(safe) + P(unsafe) over the whole vocabulary
    categories: Mapping[str, float]  # code -> score * P(code named first | unsafe); sums to score

    @property
    def top_code(self) -> str:
        return max(self.categories, key=self.categories.__getitem__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the judged turn is unsafe under a policy, why, and how sure the model is.

    >>> guard.check("How do I bake bread?").text
    'safe'
    """

    flagged: bool  # score >= threshold
    score: float
    mass: float
    categories: Mapping[str, float]
    codes: tuple[str, ...]  # the top category; all that the model names if asked for; none when not flagged
    policy: str
    role: str
    threshold: float
    num_prompt_tokens: int
    num_cached_tokens: int
    windows: tuple[Window, ...]  # one for all but long texts; the other numbers are the highest-scoring window's

    @property
    def text(self) -> str:
        """The model's answer as Llama Guard writes it: "safe" or "unsafe\\nO3"."""
        return f"unsafe\n{','.join(self.codes)}" if self.flagged else "safe"

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        # dataclasses.asdict takes 116 µs to copy this, a tenth of what HTTP costs; these lines take 2.
        return {
            "flagged": self.flagged,
            "score": self.score,
            "mass": self.mass,
            "categories": self.categories,
            "codes": self.codes,
            "policy": self.policy,
            "role": self.role,
            "threshold": self.threshold,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_cached_tokens": self.num_cached_tokens,
            "windows": [{"start": window.start, "end": window.end, "score": window.score} for window in self.windows],
            "text": self.text,
        }


def find_answer_ids(tokenizer: Tokenizer, policy: Policy) -> AnswerIds:
    """Read the answers' ids off the tokenizer.

    Limit: one token must tell the categories apart. Under Llama 2's tokenizer, which splits digits, O1 and O10 do not pass.
    """
    answers = {code: tuple(tokenizer.encode(f"unsafe\n{code}")) for code in policy.codes}
    length = min(len(commonprefix([*answers.values()])), *(len(answer) - 1 for answer in answers.values()))
    owners: dict[int, str] = {}
    for code, answer in answers.items():
        other = owners.setdefault(answer[length], code)
        if other != code:
            raise PolicyError(f"categories {other} and {code} begin with the same token; give them other codes")
    safe, forced = tokenizer.encode("safe")[0], next(iter(answers.values()))[:length]
    if not forced or safe == forced[0]:
        raise CheckpointError("this tokenizer does not tell the answers safe and unsafe apart by one token")
    code_ids = {code: token_id for token_id, code in owners.items()}
    max_length = len(tokenizer.encode(f"unsafe\n{','.join(policy.codes)}"))
    return AnswerIds(safe, forced[0], forced, code_ids, max_length)


def judge(logits: NDArray[np.float32], answers: AnswerIds, min_mass: float = MIN_MASS) -> Judgement:
    """logits: [2, vocab], after the tail and after the forced continuation. float64 from here on, in a fixed order."""
    if not np.isfinite(logits).all():
        raise VerdictError("the model gave logits that are not finite")
    verdict_logits = logits[0].astype(np.float64)
    weights = np.exp(verdict_logits - verdict_logits.max())
    mass = float((weights[answers.safe] + weights[answers.unsafe]) / weights.sum())
    if mass < min_mass:
        raise VerdictError(
            f"the model was about to answer neither safe nor unsafe: mass {mass:.3g} is under {min_mass}"
        )
    score, _ = _softmax(verdict_logits[[answers.unsafe, answers.safe]])
    named_first = _softmax(logits[1, list(answers.codes.values())].astype(np.float64))
    categories = {code: float(score * share) for code, share in zip(answers.codes, named_first, strict=True)}
    return Judgement(float(score), mass, categories)


def parse_answer(text: str, policy: Policy) -> tuple[str, ...]:
    """The codes in the model's own words; () if safe."""
    label, _, rest = text.strip().partition("\n")
    codes = tuple(dict.fromkeys(code.strip() for code in rest.split(","))) if rest else ()
    if label == "safe" and not codes:
        return ()
    if label == "unsafe" and codes and set(policy.codes).issuperset(codes):
        return codes
    raise VerdictError("the model's answer is no verdict under this policy")


def deciding_window(judgements: Sequence[Judgement]) -> int:
    """The highest score; the first of equals."""
    return max(range(len(judgements)), key=lambda index: judgements[index].score)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights


@dataclass(frozen=True, slots=True)
class NextCode:
    """How an unsafe answer may go on after the codes it has: an end, or `bridge` and one more code."""

    answer: tuple[int, ...]  # ids of "unsafe\\nO1"
    bridge: tuple[int, ...]  # ids of ",O"
    codes: Mapping[str, int]  # remaining code -> its next token


def find_next_code(tokenizer: Tokenizer, policy: Policy, codes: Sequence[str]) -> NextCode | None:
    """The verdict grammar's next step; None where all codes are named."""
    remaining = [code for code in policy.codes if code not in codes]
    if not remaining:
        return None
    answer = tuple(tokenizer.encode(f"unsafe\n{','.join(codes)}"))
    longer = {code: tuple(tokenizer.encode(f"unsafe\n{','.join([*codes, code])}")) for code in remaining}
    if any(ids[: len(answer)] != answer for ids in longer.values()):
        raise PolicyError("this tokenizer does not spell a list of these category codes token by token")
    length = min(len(commonprefix([*longer.values()])), *(len(ids) - 1 for ids in longer.values()))
    if length <= len(answer):
        raise PolicyError("this tokenizer fuses the comma of a category list with the code behind it")
    next_ids = {code: ids[length] for code, ids in longer.items()}
    return NextCode(answer, next(iter(longer.values()))[len(answer) : length], next_ids)


def choose_next_code(logits: NDArray[np.float32], step: NextCode, eos_token_ids: Sequence[int]) -> str | None:
    """logits: [2, vocab], after the answer so far and after the bridge. None: the model would end its answer here."""
    if not np.isfinite(logits).all():
        raise VerdictError("the model gave logits that are not finite")
    after_answer, after_bridge = logits
    if max(after_answer[list(eos_token_ids)]) >= after_answer[step.bridge[0]]:
        return None
    return max(step.codes, key=lambda code: float(after_bridge[step.codes[code]]))
