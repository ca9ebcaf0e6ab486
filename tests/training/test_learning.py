"""The parts of a training step do what their names say."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from guardhouse.guard.guard import EMBEDDED_FOLDER
from training.batches import Encoder
from training.data import UNLABELLED_SOURCE, Example
from training.learner import Learner, Settings
from training.model import Llama, LlamaShape
from training.optimizer import WARMUP_STEPS, orthogonal, rate_share
from training.scoring import unsafe_scores


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (32, 8)])
def test_orthogonal_brings_every_singular_value_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.4
    assert values.max() < 1.3


def test_rates_rise_stay_and_fall_to_zero() -> None:
    shares = [rate_share(step, 200, 50) for step in range(201)]
    assert shares[0] == pytest.approx(1 / WARMUP_STEPS)
    assert shares[WARMUP_STEPS:150] == [1.0] * (150 - WARMUP_STEPS)
    assert shares[175] == pytest.approx(0.5)
    assert shares[200] == 0


def test_a_new_layer_changes_nothing_yet() -> None:
    torch.manual_seed(0)
    model = small_llama()
    head, ids, positions = torch.arange(5), torch.randint(0, 40, (3, 9)), torch.tensor([[4, 5], [8, 8], [2, 3]])
    before = model(head, ids, positions)
    model.grow()
    assert len(model.model["layers"]) == model.shape.num_layers == 3
    assert torch.equal(model(head, ids, positions), before)


def test_some_positions_alone_are_what_they_are_among_all() -> None:
    torch.manual_seed(0)
    model, head, ids = small_llama(), torch.arange(5), torch.randint(0, 40, (2, 9))
    everywhere = model(head, ids, torch.arange(9).expand(2, -1))
    some = model(head, ids, torch.tensor([[3, 7], [8, 0]]))
    assert torch.allclose(some, torch.stack([everywhere[0, [3, 7]], everywhere[1, [8, 0]]]), atol=1e-6)


def test_a_verdict_is_pulled_towards_its_chance() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(Path(EMBEDDED_FOLDER) / "tokenizer.json"))
    encoder = Encoder(tokenizer, soft_labels={("maybe", "user"): 0.6})
    model = Llama(LlamaShape(vocab_size=tokenizer.get_vocab_size(), num_layers=1))
    model.model["embed_tokens"].weight.data.normal_(0, 0.1)
    learner = Learner(model, encoder, Settings(60, 30, 512, 4e-3, 4e-3, 0, four_bit_share=0.0))
    doubtful = Example(UNLABELLED_SOURCE, ("maybe",))
    sequences = encoder.encode([doubtful] * 8)
    for step in range(60):
        learner.learn(sequences, step)
    assert unsafe_scores(model, encoder, [doubtful])[0] == pytest.approx(0.6, abs=0.1)


def small_llama() -> Llama:
    """Two layers, none of them the identity."""
    model = Llama(LlamaShape(vocab_size=40, num_layers=2))
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05)
    return model
