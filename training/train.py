"""Train the embedded guard and write its checkpoint folder. One command, one process, CPU only.

Knows: the order of the steps, their settings, the clock.
Never knows: file formats (export.py), rows (data.py), the template (template.py).
"""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional

from training.batches import Encoder, Prompted, TokenBatch, group
from training.data import Example, general_texts, load_examples
from training.embeddings import embedding_table
from training.export import export_checkpoint
from training.model import Llama, LlamaShape
from training.quantization import fold_rounding, show_all_bits, train_in_four_bits
from training.scoring import report, unsafe_scores
from training.tokenizer import encode_plain, train_tokenizer

WARMUP_SHARE = 0.04
FOUR_BIT_SHARE = 0.12  # the last steps are trained with rounded weights
TOKEN_DROPOUT = 0.05  # content ids replaced by <unk>
MAX_HELD_OUT = 4000
NUM_TOKENIZER_PARAGRAPHS = 12_000
NUM_EMBEDDING_PARAGRAPHS = 60_000


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--tokens-per-batch", default=4096, show_default=True)
@click.option("--peak-rate", default=2e-3, show_default=True, help="Learning rate of the matrices after warm-up.")
@click.option("--share", default=1.0, show_default=True, help="Share of the training examples to use.")
def main(data: Path, out: Path, seed: int, threads: int, tokens_per_batch: int, peak_rate: float, share: float) -> None:
    """Train on permissive rows of DATA and write a 4-bit checkpoint to OUT."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    chance = random.Random(seed)
    shape = LlamaShape()
    examples, held_out = load_examples(data)
    examples = chance.sample(examples, round(len(examples) * share))
    held_out = chance.sample(held_out, min(MAX_HELD_OUT, len(held_out)))
    say(f"{len(examples)} training examples, {len(held_out)} held out")

    texts = [turn for example in dict.fromkeys(examples) for turn in example.turns]
    tokenizer = train_tokenizer([*texts, *general_texts(data, NUM_TOKENIZER_PARAGRAPHS)], shape.vocab_size)
    encoder = Encoder(tokenizer)
    say(f"tokenizer of {tokenizer.get_vocab_size()} pieces; heads of {len(encoder.frames['user'].head)} ids")

    model = Llama(shape)
    plain = encode_plain(tokenizer, [*texts, *general_texts(data, NUM_EMBEDDING_PARAGRAPHS)])
    table = embedding_table(plain, shape.vocab_size, shape.hidden_size, seed)
    model.model["embed_tokens"].weight.data = table
    del plain
    say("embeddings from neighbours")

    groups = group(encoder.encode(examples, chance), tokens_per_batch, chance)
    fit(model, encoder, groups, peak_rate)

    log = {"cpu_minutes": round(time.process_time() / 60, 2), "num_examples": len(examples), "num_steps": len(groups)}
    show_all_bits(model)
    log["held_out_in_32_bits"] = measure(model, encoder, held_out, "in 32 bits")
    export_checkpoint(model, tokenizer, out)
    fold_rounding(model)
    log["held_out"] = measure(model, encoder, held_out, "as exported")
    log["cpu_minutes_in_all"] = round(time.process_time() / 60, 2)
    (out / "training_log.json").write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")
    say(f"wrote {out}")


def fit(model: Llama, encoder: Encoder, groups: Sequence[Sequence[Prompted]], peak_rate: float) -> None:
    """One pass over the groups; the last part under 4-bit rounding."""
    optimizer = make_optimizer(model, peak_rate)
    base_rates = [setting["lr"] for setting in optimizer.param_groups]
    model.train()
    running = 0.0
    for step, sequences in enumerate(groups):
        if step == round(len(groups) * (1 - FOUR_BIT_SHARE)):
            train_in_four_bits(model)
        for setting, rate in zip(optimizer.param_groups, base_rates, strict=True):
            setting["lr"] = rate * schedule(step / len(groups))
        loss = answer_loss(model, encoder.batch(sequences))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        if (step + 1) % 50 == 0:
            say(f"step {step + 1} of {len(groups)}, loss {running / 50:.4f}")
            running = 0.0


def answer_loss(model: Llama, batch: TokenBatch) -> Tensor:
    """Cross-entropy of the answer's ids, summed over an answer, averaged over the batch."""
    ids = batch.ids
    dropped = (torch.rand(ids.shape) < TOKEN_DROPOUT).flatten()
    dropped[batch.rows] = False  # the answer and the last prompt token stay
    ids = ids.flatten().masked_fill(dropped, 0).view_as(ids)
    hidden = model(batch.head, ids).flatten(0, 1)
    total = functional.cross_entropy(model.logits(hidden[batch.rows]), batch.targets, reduction="sum")
    return total / len(ids)


def make_optimizer(model: Llama, peak_rate: float) -> torch.optim.Optimizer:
    """Matrices decay; the embedding table learns more slowly, so that pieces seen rarely keep their neighbours."""
    matrices = [parameter for name, parameter in model.named_parameters() if "proj" in name]
    norms = [parameter for name, parameter in model.named_parameters() if "norm" in name]
    settings = [
        {"params": matrices, "lr": peak_rate, "weight_decay": 0.1},
        {"params": norms, "lr": peak_rate, "weight_decay": 0.0},
        {"params": [model.model["embed_tokens"].weight], "lr": peak_rate / 2, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(settings, betas=(0.9, 0.98), fused=True)


def schedule(progress: float) -> float:
    """Linear warm-up, then half a cosine to 2 %."""
    if progress < WARMUP_SHARE:
        return progress / WARMUP_SHARE + 0.01
    angle = math.pi * (progress - WARMUP_SHARE) / (1 - WARMUP_SHARE)
    return 0.02 + 0.98 * (1 + math.cos(angle)) / 2


def measure(model: Llama, encoder: Encoder, examples: Sequence[Example], name: str) -> dict[str, dict[str, float]]:
    """Score, print and return the summaries of a held-out set."""
    summaries = report(unsafe_scores(model, encoder, examples), examples)
    for part, summary in summaries.items():
        say(f"{name}, {part}: {summary}")
    return {part: asdict(summary) for part, summary in summaries.items()}


def say(text: str) -> None:
    """Progress with the CPU time used so far."""
    print(f"[{time.process_time() / 60:5.1f} CPU min] {text}", flush=True)


if __name__ == "__main__":
    main()
