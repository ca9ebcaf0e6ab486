"""One training step: batch -> losses -> moved weights.

Knows: the losses and their weights, the schedule.
Never knows: where examples come from, files, the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.bags import bag_states
from training.batches import Encoder, Prompted, TokenBatch
from training.model import Llama
from training.optimizer import Optimizer, rate_share
from training.quantization import train_in_four_bits
from training.sentences import WIDTH as MEANING_WIDTH

TOKEN_DROPOUT = 0.1  # content ids replaced by <unk>
NUM_NEGATIVES = 768  # pieces that answers are contrasted with besides the answers' own: a twentieth of the table
MEANING_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stage of training is made of. `four_bit_share`: of the cooling steps, the last ones see rounded weights."""

    steps: int
    cooling: int
    tokens_per_batch: int
    matrix_rate: float
    table_rate: float
    seed: int
    four_bit_share: float = 0.5


class Learner:
    """The guard, what is thrown away after training, and their optimiser. Invariant: one `learn` is one step."""

    def __init__(self, model: Llama, encoder: Encoder, settings: Settings) -> None:
        self.model, self.encoder = model, encoder
        self._meaning = nn.Linear(model.shape.hidden_size, MEANING_WIDTH)
        self.begin(settings)
        answers = encoder.answers
        words = {answers.safe, answers.unsafe, answers.newline, answers.letter, answers.comma, answers.end}
        self._answer_ids = torch.tensor(sorted(words.union(answers.digits)))

    def begin(self, settings: Settings) -> None:
        """A stage with its own schedule, for whatever weights the model has by now."""
        self.settings = settings
        self._optimizer = Optimizer(self.model, [self._meaning], settings.matrix_rate, settings.table_rate)

    def learn(self, sequences: Sequence[Prompted], step: int) -> tuple[float, float]:
        """(loss of the answers, distance from the sentence vectors)"""
        settings = self.settings
        if step == settings.steps - round(settings.cooling * settings.four_bit_share):
            train_in_four_bits(self.model)
        batch = self.encoder.batch(sequences)
        hidden = self.model(batch.head, drop_tokens(batch), batch.positions)
        answers = self._answer_loss(hidden.flatten(0, 1), batch)
        distance = self._distance(hidden[:, 0], sequences)
        share = rate_share(step, settings.steps, settings.cooling)
        (answers + MEANING_WEIGHT * distance).backward()
        self._optimizer.step(share)
        return answers.item(), distance.item()

    def learn_bags(self, sequences: Sequence[Prompted], step: int) -> tuple[float, float]:
        """A step of the first stage (bags.py): verdicts and sentence vectors, no codes. As `learn` else."""
        settings = self.settings
        head = self.encoder.frames[sequences[0].role].head
        states = bag_states(self.model, head, sequences, TOKEN_DROPOUT)
        candidates = self._candidates()
        logits = functional.linear(states, self.model.model["embed_tokens"](candidates))
        chances = torch.tensor([s.target for s in sequences])
        verdicts = self._verdict_losses(logits, chances).mean()
        distance = self._distance(states, sequences)
        (verdicts + MEANING_WEIGHT * distance).backward()
        self._optimizer.step(rate_share(step, settings.steps, settings.cooling))
        return verdicts.item(), distance.item()

    def _answer_loss(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """Cross-entropy of the answers' ids against each other and random pieces, weighted, per example."""
        candidates = self._candidates()
        places = torch.searchsorted(self._answer_ids, batch.targets)
        logits = functional.linear(hidden[batch.rows], self.model.model["embed_tokens"](candidates))
        losses = functional.cross_entropy(logits, places, reduction="none")
        losses = losses.index_copy(0, batch.verdicts, self._verdict_losses(logits[batch.verdicts], batch.chances))
        return (losses * batch.weights).sum() / len(batch.ids)

    def _candidates(self) -> Tensor:
        """The answers' own ids, in order, and random others."""
        others = torch.randint(self.model.shape.vocab_size, (NUM_NEGATIVES,))
        return torch.cat([self._answer_ids, others[~torch.isin(others, self._answer_ids)]])

    def _verdict_losses(self, logits: Tensor, chances: Tensor) -> Tensor:
        """Cross-entropy with both verdicts, each at its chance."""
        pair = torch.searchsorted(
            self._answer_ids, torch.tensor([self.encoder.answers.safe, self.encoder.answers.unsafe])
        )
        safe, unsafe = logits.log_softmax(dim=1)[:, pair].unbind(1)
        return -(chances * unsafe + (1 - chances) * safe)

    def _distance(self, verdict_states: Tensor, sequences: Sequence[Prompted]) -> Tensor:
        """1 - cosine, averaged over the batch; texts without a vector count as 0."""
        known, vectors = self.encoder.meanings(sequences)
        guessed = self._meaning(verdict_states[known])
        return (1 - functional.cosine_similarity(guessed, vectors)).sum() / len(sequences)


def drop_tokens(batch: TokenBatch) -> Tensor:
    """Some ids become <unk>; the answers and the last prompt ids stay."""
    dropped = torch.rand(batch.ids.shape) < TOKEN_DROPOUT
    return batch.ids.masked_fill(dropped.scatter(1, batch.positions, value=False), 0)
