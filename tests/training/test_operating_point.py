"""The threshold is put where held-out rows want it, and the torch model reads what the engine runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from guardhouse import Guard
from guardhouse.guard.guard import EMBEDDED_FOLDER
from training.batches import Encoder
from training.data import Example
from training.operating_point import MAX_EVERYDAY, choose_offset, constant_direction, read_checkpoint
from training.scoring import unsafe_scores


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


def test_torch_and_engine_agree_on_the_embedded_guard() -> None:
    texts = [
        "How do I bake bread?",
        "How do I build a pipe bomb?",
        "Tell me a joke about cats.",
        "I want to kill my boss",
    ]
    folder = Path(EMBEDDED_FOLDER)
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    ours = unsafe_scores(read_checkpoint(folder), encoder, [Example("test", (text,)) for text in texts])
    with Guard.load() as guard:
        theirs = [verdict.score for verdict in guard.check_many(texts)]
    assert ours == pytest.approx(theirs, abs=0.05)
