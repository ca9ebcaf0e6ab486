"""The threshold is put where held-out rows want it."""

import numpy as np
import torch

from training.operating_point import MAX_EVERYDAY, choose_offset, constant_direction


def test_the_offset_takes_recall_that_costs_nothing() -> None:
    unsafe, hard, everyday = np.array([-0.5, 0.5, 1.0]), np.array([-2.0, -1.0]), np.full(100, -2.0)
    chosen = choose_offset(unsafe, hard, everyday)
    assert 0.5 <= chosen["offset"] < 1.0
    assert (chosen["recall"], chosen["hard"], chosen["everyday"]) == (1.0, 0.0, 0.0)


def test_everyday_prompts_come_first() -> None:
    everyday = np.linspace(-1, 1, 1000)
    chosen = choose_offset(np.full(10, 0.0), np.full(10, -3.0), everyday)
    assert chosen["everyday"] <= MAX_EVERYDAY
    assert chosen["recall"] == 0.0


def test_a_constant_direction_moves_all_states_alike() -> None:
    torch.manual_seed(0)
    states = torch.randn(500, 16)
    states[:, 3] = 2.0
    assert (states @ constant_direction(states)).sub(1).abs().max() < 0.05
