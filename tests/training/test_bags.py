"""A bag is the Llama itself, as long as its queries are zero."""

import torch

from training.bags import bag_states, silence_queries
from training.batches import Prompted
from training.model import Llama, LlamaShape

PROMPTS = ([7, 8, 9, 3], [11, 3], [20, 21, 22, 23, 24, 25, 3])


def test_a_bag_is_what_the_model_says_at_the_last_position() -> None:
    torch.manual_seed(0)
    model = Llama(LlamaShape(vocab_size=40, num_layers=1))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    silence_queries(model)
    sequences = [Prompted("user", prompt, [], "", (), 0.0) for prompt in PROMPTS]
    states = bag_states(model, [1, 2, 4], sequences, dropout=0.0)
    for state, prompt in zip(states, PROMPTS, strict=True):
        last = torch.tensor([[len(prompt) - 1]])
        assert torch.allclose(model(torch.tensor([1, 2, 4]), torch.tensor([prompt]), last)[0, 0], state, atol=1e-5)
