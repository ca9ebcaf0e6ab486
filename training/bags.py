"""Teach the embedding table what each piece says about the labels, before the transformer learns to read in order.

A text as the mean of its pieces' rows, judged by one linear layer: a minute of this gives the table what a bag-of-words
classifier knows, and the transformer begins where that ends.

Knows: ids of judged turns, roles, codes.
Never knows: the transformer, files.
"""

import random
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.batches import Prompted
from training.template import CODES

EPOCHS = 4
BATCH_SIZE = 512
RATE = 2e-3
MAX_TOKENS = 96


class BagClassifier(nn.Module):
    """Normed mean of rows -> unsafe, and each code, per judged role."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag.from_pretrained(table.clone(), freeze=False, mode="mean")
        self.norm = nn.RMSNorm(table.shape[1])
        self.judge = nn.Linear(table.shape[1], 2 * (1 + len(CODES)))

    def forward(self, ids: Tensor, starts: Tensor) -> Tensor:
        judged: Tensor = self.judge(self.norm(self.bag(ids, starts)))
        return judged


def teach_table(table: Tensor, sequences: Sequence[Prompted], seed: int) -> Tensor:
    """[vocab, width] -> the same after `EPOCHS` passes, each row at its old length."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    classifier = BagClassifier(table)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE, fused=True)
    steps = EPOCHS * len(sequences) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, max(1, steps))
    for _ in range(EPOCHS):
        order = chance.sample(range(len(sequences)), len(sequences))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            loss = _loss(classifier, [sequences[index] for index in order[start : start + BATCH_SIZE]])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    taught = classifier.bag.weight.detach()
    return functional.normalize(taught, dim=1) * table.norm(dim=1, keepdim=True)


def _loss(classifier: BagClassifier, batch: Sequence[Prompted]) -> Tensor:
    texts = [s.judged[:MAX_TOKENS] or [0] for s in batch]
    starts = torch.tensor([0, *accumulate(len(text) for text in texts)][:-1])
    outputs = classifier(torch.tensor([token for text in texts for token in text]), starts)
    half = outputs.shape[1] // 2
    is_answer = torch.tensor([s.role == "assistant" for s in batch])
    chosen = torch.where(is_answer[:, None], outputs[:, half:], outputs[:, :half])
    targets = torch.tensor([[bool(s.codes), *(code in s.codes for code in CODES)] for s in batch], dtype=torch.float32)
    return functional.binary_cross_entropy_with_logits(chosen, targets)
