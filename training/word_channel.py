"""Add a layer that is a bag of words: one coordinate of the residual stream carries what each piece says by itself.

    python -m training.word_channel --data ../shared/data --model training/runs/v2

A logistic regression on pieces carries over to other sources better than a small transformer does, and a Llama can hold one:
an attention layer with queries of zero averages over all positions; its one value is coordinate `COORDINATE` of a piece's
embedding, the regression's weight; what it writes there reaches only the last norm, and so the verdict's two rows. The other
layers neither read nor write that coordinate any more. How loud the channel is, is chosen on held-out rows.

Knows: the checkpoint's tensors, sequences and labels of training rows.
Never knows: evaluation sets, training steps.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from tokenizers import Tokenizer

from guardhouse.model.awq import pack_awq, quantize_rtn, unpack_awq
from training.batches import Encoder
from training.data import Example, load_examples
from training.export import write_json
from training.model import LlamaShape
from training.operating_point import WEIGHTS, move_operating_point, read_checkpoint
from training.quantization import GROUP_SIZE
from training.scoring import verdict_states

COORDINATE = 255  # the table began as principal parts: the last one says least
MAX_VALUE = 2.0  # of a piece, after the layer's norm: larger ones would disturb what the transformer sees
VERDICT_PART = 0.15  # of the verdict's rows on the coordinate; small, since these pieces also occur in texts
MIXED = 16.0  # what the layer's output is multiplied by
INVERSE_PENALTY = 3.0
MIN_TEXTS = 2  # a piece that occurs in fewer has no weight
GAINS = tuple(25.0 * 1.35**power for power in range(20))
MAX_ROWS = 3000  # held out, to choose the gain by
Tensors = dict[str, NDArray[np.generic]]


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option(
    "--model", type=click.Path(path_type=Path, exists=True), required=True, help="Checkpoint folder to change."
)
def main(data: Path, model: Path) -> None:
    """Add the channel to a checkpoint without one, then move its operating point."""
    examples, held_out = load_examples(data)
    print(add_word_channel(model, examples, held_out), flush=True)
    print(move_operating_point(model, held_out))


def add_word_channel(folder: Path, examples: Sequence[Example], held_out: Sequence[Example]) -> dict[str, float]:
    """Change the checkpoint; returns the gain, and the held-out AUPRC without and with it."""
    encoder = Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    shape = read_checkpoint(folder).shape
    counts = Counter(examples)
    rows = [[*encoder.frames[s.role].head, *s.prompt] for s in encoder.encode(list(counts))]
    labels = [bool(example.codes) for example in counts]
    weights = fit_weights(rows, labels, list(counts.values()), shape.vocab_size)
    verdicts = (encoder.answers.safe, encoder.answers.unsafe)
    plain = load_file(folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "num_hidden_layers": shape.num_layers + 1})
    save_file(add_channel(plain, shape, weights, verdicts, 1.0), folder / WEIGHTS, metadata={"format": "pt"})
    chosen = choose_gain(folder, encoder, held_out[:: max(1, len(held_out) // MAX_ROWS)])
    tensors = add_channel(plain, shape, weights, verdicts, chosen["gain"])
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return chosen


def choose_gain(folder: Path, encoder: Encoder, held_out: Sequence[Example]) -> dict[str, float]:
    """The checkpoint has a channel of gain 1: its states tell both voices apart, so that every gain can be tried at once."""
    model = read_checkpoint(folder)
    states = verdict_states(model, encoder, held_out).numpy()
    table = model.model["embed_tokens"].weight.detach().numpy()
    difference = table[encoder.answers.unsafe] - table[encoder.answers.safe]
    words = states[:, COORDINATE] * difference[COORDINATE]
    others = states @ difference - words
    labels = [bool(example.codes) for example in held_out]
    quality = {gain: float(average_precision_score(labels, others + gain * words)) for gain in GAINS}
    best = max(quality, key=lambda gain: quality[gain])
    alone = float(average_precision_score(labels, others))
    return {"gain": best, "auprc": quality[best], "auprc_without": alone, "auprc_words": quality[GAINS[-1]]}


def fit_weights(
    sequences: Sequence[Sequence[int]], is_unsafe: Sequence[bool], passes: Sequence[int], vocab_size: int
) -> NDArray[np.float32]:
    """Whole sequences, as the layer averages them -> one weight per piece, [vocab]; logit = mean weight + a constant."""
    features = count_shares(sequences, vocab_size)
    num_texts = np.bincount(features.indices, minlength=vocab_size)
    rarity = np.log((len(sequences) + 1) / (num_texts + 1)) * 10
    rarity[num_texts < MIN_TEXTS] = 0.0
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=200)
    model.fit(features @ sparse.diags(rarity), is_unsafe, sample_weight=passes)
    weights: NDArray[np.float32] = (model.coef_[0] * rarity).astype(np.float32)
    return weights


def count_shares(sequences: Sequence[Sequence[int]], vocab_size: int) -> sparse.csr_matrix:
    """[texts, vocab]: how often each piece occurs, divided by the text's length."""
    rows, columns, values = [], [], []
    for row, ids in enumerate(sequences):
        for piece, count in Counter(ids).items():
            rows.append(row)
            columns.append(piece)
            values.append(count / len(ids))
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(sequences), vocab_size), dtype=np.float32)


def add_channel(
    tensors: Tensors, shape: LlamaShape, weights: NDArray[np.float32], verdicts: tuple[int, int], gain: float
) -> Tensors:
    """The checkpoint's tensors with one layer more, before the others. `verdicts`: ids of safe and unsafe."""
    moved = {_shifted(name): array for name, array in _deaf(tensors).items()}
    table = moved["model.embed_tokens.weight"].astype(np.float32)
    table[:, COORDINATE] = 0.0
    length = np.sqrt((table**2).mean(axis=1) + shape.rms_norm_eps)
    table[:, COORDINATE] = piece_values(weights) * length
    safe, unsafe = verdicts
    table[safe, COORDINATE], table[unsafe, COORDINATE] = -VERDICT_PART, VERDICT_PART
    moved["model.embed_tokens.weight"] = table.astype(np.float16)
    norm = moved["model.norm.weight"].astype(np.float32)
    norm[COORDINATE] = gain
    moved["model.norm.weight"] = norm.astype(np.float16)
    return {**moved, **_averaging_layer(shape)}


def piece_values(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights scaled so that few of them have to be cut."""
    scale = MAX_VALUE / np.quantile(np.abs(weights[weights != 0]), 0.995)
    values: NDArray[np.float32] = np.clip(weights * scale, -MAX_VALUE, MAX_VALUE)
    return values


def _deaf(tensors: Tensors) -> Tensors:
    """The layers without the coordinate: what reads it reads 0, what writes it writes 0. Other codes stay as they are."""
    changed = dict(tensors)
    for name in {name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")}:
        weight = unpack_awq(*(tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales")))
        if name.endswith(("o_proj", "down_proj")):
            weight.codes[:, COORDINATE] = np.repeat(weight.zeros[:, COORDINATE], len(weight.codes) // len(weight.zeros))
        if not name.endswith(("o_proj", "down_proj")):
            weight.codes[COORDINATE] = weight.zeros[COORDINATE // GROUP_SIZE]
        changed |= {f"{name}.{part}": array for part, array in pack_awq(weight).items()}
    return changed


def _averaging_layer(shape: LlamaShape) -> Tensors:
    """Layer 0: uniform attention over one value; no MLP."""
    hidden, inner, kv = shape.hidden_size, shape.intermediate_size, shape.num_kv_heads * shape.head_dim
    dense = {
        "self_attn.q_proj": np.zeros((hidden, hidden), np.float32),
        "self_attn.k_proj": np.zeros((kv, hidden), np.float32),
        "self_attn.v_proj": np.zeros((kv, hidden), np.float32),
        "self_attn.o_proj": np.zeros((hidden, hidden), np.float32),
        "mlp.gate_proj": np.zeros((inner, hidden), np.float32),
        "mlp.up_proj": np.zeros((inner, hidden), np.float32),
        "mlp.down_proj": np.zeros((hidden, inner), np.float32),
    }
    dense["self_attn.v_proj"][0, COORDINATE] = 1.0
    dense["self_attn.o_proj"][COORDINATE, 0] = MIXED
    layer: Tensors = {}
    for name, weight in dense.items():
        packed = pack_awq(quantize_rtn(weight, GROUP_SIZE))
        layer |= {f"model.layers.0.{name}.{part}": array for part, array in packed.items()}
    ones = np.ones(hidden, np.float16)
    return {
        **layer,
        "model.layers.0.input_layernorm.weight": ones,
        "model.layers.0.post_attention_layernorm.weight": ones,
    }


def _shifted(name: str) -> str:
    """Layer n becomes layer n + 1."""
    _, found, rest = name.partition("model.layers.")
    if not found:
        return name
    number, _, tail = rest.partition(".")
    return f"model.layers.{int(number) + 1}.{tail}"


if __name__ == "__main__":
    main()
