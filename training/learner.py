"""One training step: batch -> losses -> moved weights.

Knows: the losses and their weights, the schedule.
Never knows: where examples come from, files, the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.batches import Encoder, Prompted, TokenBatch
from training.model import Llama
from training.optimizer import Optimizer, rate_share
from training.quantization import train_in_four_bits
from training.sentences import WIDTH as MEANING_WIDTH

FOUR_BIT_SHARE = 0.5  # of the cooling steps, the last ones, are trained with rounded weights
TOKEN_DROPOUT = 0.05  # content ids replaced by <unk>
NUM_NEGATIVES = 768  # pieces that answers are contrasted with besides the answers' own: a twentieth of the table
MEANING_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is made of."""

    steps: int
    cooling: int
    tokens_per_batch: int
    matrix_rate: float
    table_rate: float
    seed: int


class Learner:
    """The guard, what is thrown away after training, and their optimiser. Invariant: one `learn` is one step."""

    def __init__(self, model: Llama, encoder: Encoder, settings: Settings) -> None:
        self.model, self._encoder, self.settings = model, encoder, settings
        self._meaning = nn.Linear(model.shape.hidden_size, MEANING_WIDTH)
        self._optimizer = Optimizer(model, [self._meaning], settings.matrix_rate, settings.table_rate)
        answers = encoder.answers
        words = {answers.safe, answers.unsafe, answers.newline, answers.letter, answers.comma, answers.end}
        self._answer_ids = torch.tensor(sorted(words.union(answers.digits)))

    def learn(self, sequences: Sequence[Prompted], step: int) -> tuple[float, float]:
        """(loss of the answers, distance from the sentence vectors)"""
        settings = self.settings
        if step == settings.steps - round(settings.cooling * FOUR_BIT_SHARE):
            train_in_four_bits(self.model)
        batch = self._encoder.batch(sequences)
        hidden = self.model(batch.head, drop_tokens(batch)).flatten(0, 1)
        answers = self._answer_loss(hidden, batch)
        distance = self._distance(hidden, batch)
        share = rate_share(step, settings.steps, settings.cooling)
        (answers + MEANING_WEIGHT * share * distance).backward()
        self._optimizer.step(share)
        return answers.item(), distance.item()

    def cool_from(self, step: int) -> None:
        """Finish early: this step is the first of the cooling ones, unless they have begun."""
        steps = min(self.settings.steps, step + self.settings.cooling)
        self.settings = replace(self.settings, steps=steps)

    def _answer_loss(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """Cross-entropy of the answers' ids against each other and random pieces, weighted, per example."""
        others = torch.randint(self.model.shape.vocab_size, (NUM_NEGATIVES,))
        candidates = torch.cat([self._answer_ids, others[~torch.isin(others, self._answer_ids)]])
        places = torch.searchsorted(self._answer_ids, batch.targets)
        logits = functional.linear(hidden[batch.rows], self.model.model["embed_tokens"](candidates))
        losses = functional.cross_entropy(logits, places, reduction="none")
        return (losses * batch.weights).sum() / len(batch.ids)

    def _distance(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """1 - cosine, averaged over the batch; texts without a vector count as 0."""
        guessed = self._meaning(hidden[batch.verdict_rows[batch.taught]])
        return (1 - functional.cosine_similarity(guessed, batch.meanings)).sum() / len(batch.ids)


def drop_tokens(batch: TokenBatch) -> Tensor:
    """Some ids become <unk>; the answers and the last prompt ids stay."""
    dropped = (torch.rand(batch.ids.shape) < TOKEN_DROPOUT).flatten()
    dropped[batch.rows] = False
    return batch.ids.flatten().masked_fill(dropped, 0).view_as(batch.ids)
