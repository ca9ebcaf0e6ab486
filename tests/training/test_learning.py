"""The parts of a training step do what their names say."""

import numpy as np
import pytest
import torch

from training.bags import teach_table
from training.batches import Prompted
from training.export import checkpoint_tensors
from training.model import Llama, LlamaShape
from training.optimizer import WARMUP_STEPS, orthogonal, rate_share
from training.word_channel import COORDINATE, add_channel


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


def test_a_bag_learns_which_pieces_are_unsafe_and_keeps_the_rows_lengths() -> None:
    torch.manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(20, 16), dim=1)
    sequences = [
        Prompted("user", [], [], "", [index % 20, 3], codes=("O1",) if index % 20 < 3 else ()) for index in range(2000)
    ]
    taught = teach_table(table, sequences, seed=0)
    direction = taught[:3].mean(0) - taught[4:].mean(0)
    assert (taught[:3] @ direction).min() > (taught[4:] @ direction).max()
    assert torch.allclose(taught.norm(dim=1), table.norm(dim=1), atol=1e-5)


def test_the_word_channel_is_one_layer_that_shifts_the_others() -> None:
    shape = LlamaShape(vocab_size=64, num_layers=1)
    plain = checkpoint_tensors(Llama(shape))
    weights = np.linspace(-3, 3, 64).astype(np.float32)
    tensors = add_channel(plain, shape, weights, (1, 2), gain=7.0)
    assert {name.replace("layers.1.", "layers.0.") for name in tensors if "layers.1." in name} == {
        name for name in plain if "layers.0." in name
    }
    assert tensors["model.norm.weight"][COORDINATE] == 7.0
    table = tensors["model.embed_tokens.weight"].astype(np.float32)
    length = np.sqrt((np.delete(table, COORDINATE, axis=1) ** 2).sum(axis=1) / table.shape[1])
    assert np.corrcoef(table[3:, COORDINATE] / length[3:], weights[3:])[0, 1] > 0.99
