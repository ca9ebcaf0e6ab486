"""First values of the embedding table: what a public sentence encoder makes of every piece, squeezed into the guard's width.

Neighbour counts over the texts at hand (the first version's way) know little of rare words; the encoder has read a billion
sentences. It costs a minute, and gives every word the place of its synonyms before training begins.

Knows: pieces, vectors.
Never knows: labels.
"""

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.sentences import SentenceEncoder

ROW_NORM = 2.0
NOISE = 0.01


def embedding_table(tokenizer: Tokenizer, encoder: SentenceEncoder, width: int, seed: int) -> Tensor:
    """[vocab, width]: the principal parts of the pieces' vectors, each row of one length."""
    pieces = [
        tokenizer.id_to_token(index).replace("▁", " ").strip() or "." for index in range(tokenizer.get_vocab_size())
    ]
    vectors = torch.from_numpy(encoder.encode(pieces).astype(np.float32))
    centred = vectors - vectors.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    table = centred @ directions[:width].T
    table = table / table.norm(dim=1, keepdim=True).clamp_min(1e-6) * ROW_NORM
    torch.manual_seed(seed)
    return table + torch.randn(table.shape) * NOISE
