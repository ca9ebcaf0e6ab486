"""The guard while it has one layer with queries of zero: every position counts the same, so a text is a bag of pieces.

Such a layer needs no attention: sums of the table's rows give exactly what the Llama gives at the last position (a test
compares them), at about a fifteenth of the price per row (docs/log.md). This stage teaches the table and the layer what
words mean, before anything is learnt about their order.

Knows: the model's weights, prompts as ids.
Never knows: losses, files.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from training.batches import Prompted
from training.model import Llama


def silence_queries(model: Llama) -> None:
    """From here on the one layer averages over all positions."""
    model.model["layers"][0].self_attn.q_proj.weight.data.zero_()


def bag_states(model: Llama, head: Sequence[int], sequences: Sequence[Prompted], dropout: float) -> Tensor:
    """[batch, hidden]: the normed states at the last prompt ids; other ids become <unk> at the rate of `dropout`."""
    layer, table = model.model["layers"][0], model.model["embed_tokens"].weight
    flat = torch.tensor([token for s in sequences for token in s.prompt])
    ends = torch.tensor(list(accumulate(len(s.prompt) for s in sequences)))
    lengths = torch.tensor([len(s.prompt) for s in sequences])
    lasts = flat[ends - 1]
    dropped = torch.rand(len(flat)) < dropout
    dropped[ends - 1] = False
    pieces, places = torch.cat([torch.tensor(head), flat.masked_fill(dropped, 0)]).unique(return_inverse=True)
    normed = layer.input_layernorm(table[pieces])
    sums = functional.embedding_bag(places[len(head) :], normed, ends - lengths, mode="sum")
    means = (sums + normed[places[: len(head)]].sum(0)) / (lengths + len(head))[:, None]
    attention = layer.self_attn
    values = attention.v_proj(means).view(len(sequences), -1, model.shape.head_dim)
    mixed = values.repeat_interleave(model.shape.num_heads // model.shape.num_kv_heads, dim=1).flatten(1)
    states: Tensor = model.model["norm"](layer.think(table[lasts] + attention.o_proj(mixed)))
    return states
