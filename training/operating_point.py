"""Move a trained guard's scores so that the threshold 0.5 is where the held-out rows want it.

    python -m training.operating_point --data ../shared/data --model training/runs/v2

The shares of safe and unsafe rows in training are nobody's traffic, so the plain 0.5 is arbitrary. The offset is chosen on
held-out rows of the training sources, never on evaluation sets: the most recall that leaves at most `MAX_EVERYDAY` false
positives on everyday prompts. It is put into one row of the embedding table: a Llama
has no biases, but its last hidden states have a direction along which they are all alike.

Knows: the checkpoint's tensors, held-out rows.
Never knows: evaluation sets, training steps.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from guardhouse.model.awq import dequantize, unpack_awq
from training.batches import Encoder
from training.data import Example, is_everyday, load_examples
from training.model import Llama, LlamaShape
from training.scoring import verdict_states
from training.sources import NOISY_SOURCES

MAX_ROWS = 2500  # of each kind
MAX_EVERYDAY = 0.016
VERDICT_LIFT = (
    6.0  # for both verdicts: training contrasts them with a few pieces at a time, so odd texts left them little mass
)
OFFSETS = np.arange(-3.0, 3.01, 0.05)
RIDGE = 1e-3
WEIGHTS = "model.safetensors"


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True), required=True, help="Checkpoint folder to change."
)
def main(data: Path, model: Path) -> None:
    """Choose the offset on held-out rows and write it into the checkpoint."""
    print(move_operating_point(model, load_examples(data)[1]))


def move_operating_point(folder: Path, held_out: Sequence[Example]) -> dict[str, float]:
    """Change the checkpoint; returns the offset and the shares that it was chosen by."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, encoder = read_checkpoint(folder), Encoder(tokenizer)
    rows = choose_rows(held_out)
    states = verdict_states(model, encoder, [row for part in rows for row in part])
    table = model.model["embed_tokens"].weight.detach()
    margins = (states @ (table[encoder.answers.unsafe] - table[encoder.answers.safe])).numpy()
    ends = np.cumsum([len(part) for part in rows])[:-1]
    chosen = choose_offset(*np.split(margins, ends))
    tensors = load_file(folder / WEIGHTS)
    direction = constant_direction(states)
    for row, lift in ((encoder.answers.safe, 0.0), (encoder.answers.unsafe, chosen["offset"])):
        moved = table[row] + (lift + VERDICT_LIFT) * direction
        tensors["model.embed_tokens.weight"][row] = moved.numpy().astype(np.float16)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return chosen


def choose_rows(held_out: Sequence[Example]) -> tuple[list[Example], list[Example], list[Example]]:
    """(unsafe, hard benign, everyday) prompts."""
    prompts = [e for e in held_out if e.role == "user"]
    parts = (
        [e for e in prompts if e.codes and e.source not in NOISY_SOURCES],
        [e for e in prompts if e.is_hard],
        [e for e in prompts if is_everyday(e)],
    )
    chance = random.Random(0)
    unsafe, hard, everyday = (chance.sample(part, min(MAX_ROWS, len(part))) for part in parts)
    return unsafe, hard, everyday


def choose_offset(
    unsafe: NDArray[np.float32], hard: NDArray[np.float32], everyday: NDArray[np.float32]
) -> dict[str, float]:
    """Margins of logits per kind of row -> the offset to add, and what is flagged with it.

    >>> choose_offset(np.array([1.0, -0.2]), np.array([-1.0]), np.array([-2.0]))["recall"]
    1.0
    """
    options = [
        {
            "offset": float(offset),
            "recall": float((unsafe + offset >= 0).mean()),
            "hard": float((hard + offset >= 0).mean()),
            "everyday": float((everyday + offset >= 0).mean()),
        }
        for offset in OFFSETS
    ]
    allowed = [option for option in options if option["everyday"] <= MAX_EVERYDAY] or options[:1]
    return max(allowed, key=lambda option: (option["recall"], -option["hard"], -abs(option["offset"])))


def constant_direction(states: Tensor) -> Tensor:
    """[rows, hidden] -> [hidden] whose product with every row is as near to 1 as can be."""
    gram = states.T @ states / len(states)
    return torch.linalg.solve(gram + RIDGE * torch.eye(len(gram)), states.mean(dim=0))


def read_checkpoint(folder: Path) -> Llama:
    """The exported folder as a torch model with the rounded weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / WEIGHTS)
    model = Llama(
        LlamaShape(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config["num_key_value_heads"],
        )
    )
    linears = model.linears()
    for name, parameter in model.named_parameters():
        linear = name.removesuffix(".weight")
        if linear in linears:
            parts = [tensors[f"{linear}.{part}"] for part in ("qweight", "qzeros", "scales")]
            value = dequantize(unpack_awq(*parts)).weight
        else:
            value = tensors[name].astype(np.float32)
        parameter.data = torch.from_numpy(np.ascontiguousarray(value))
    return model.eval()


if __name__ == "__main__":
    main()
