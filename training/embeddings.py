"""First values of the embedding table: which pieces stand near which, in plain text.

Positive pointwise mutual information of neighbouring pieces, reduced by a singular value decomposition. It costs seconds
where pretraining would cost the whole budget, and gives rare words the place of their synonyms before training begins.

Knows: token ids.
Never knows: labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

WINDOW = 5  # pieces to either side
CONTEXT_POWER = 0.75  # keeps rare contexts from dominating
ROW_NORM = 1.0
NOISE = 0.01


def embedding_table(texts: Sequence[Sequence[int]], vocab_size: int, width: int, seed: int) -> Tensor:
    """Ids of many texts -> [vocab, width]; rows of pieces that never occur are noise."""
    ppmi = torch.from_numpy(_positive_mutual_information(_neighbour_counts(texts, vocab_size)))
    torch.manual_seed(seed)
    left, values, _ = torch.svd_lowrank(ppmi, q=width + 32, niter=2)
    table = left[:, :width] * values[:width].sqrt()
    table = table - table.mean(dim=0)
    table = table / table.norm(dim=1, keepdim=True).clamp_min(1e-6) * ROW_NORM
    return table + torch.randn(table.shape) * NOISE


def _neighbour_counts(texts: Sequence[Sequence[int]], vocab_size: int) -> sparse.csr_matrix:
    """How often two pieces stand within the window, nearer ones counting more. Symmetric."""
    gap = [-1] * WINDOW  # so that no pair spans two texts
    stream = np.array([token for text in texts for token in (*text, *gap)], dtype=np.int32)
    counts = sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        left, right = stream[:-distance], stream[distance:]
        inside = (left >= 0) & (right >= 0)
        weights = np.full(int(inside.sum()), 1.0 / distance, dtype=np.float32)
        pairs = sparse.coo_matrix((weights, (left[inside], right[inside])), shape=counts.shape)
        counts = counts + pairs.tocsr()
    return counts + counts.T


def _positive_mutual_information(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """log p(a, b) / (p(a) p(b)), negative values as 0, dense [vocab, vocab]."""
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel() + 1e-9
    contexts = totals**CONTEXT_POWER
    information = np.log(pairs.data * contexts.sum() / (totals[pairs.row] * contexts[pairs.col]))
    dense = np.zeros(counts.shape, dtype=np.float32)
    dense[pairs.row, pairs.col] = np.maximum(information, 0.0)
    return dense
