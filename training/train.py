"""Train the embedded guard and write its checkpoint folder. One command, one process, CPU only.

Knows: the order of the steps, their settings, the clock.
Never knows: file formats (export.py), rows (data.py), the template (template.py).
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.bags import teach_table
from training.batches import Encoder, Prompted, group
from training.data import Example, general_texts, load_examples
from training.embeddings import embedding_table
from training.export import export_checkpoint, write_json
from training.learner import Learner, Settings
from training.model import Llama, LlamaShape
from training.operating_point import move_operating_point, read_checkpoint
from training.quantization import show_all_bits
from training.scoring import report, unsafe_scores
from training.sentences import SentenceEncoder
from training.tokenizer import train_tokenizer
from training.word_channel import add_word_channel

MAX_HELD_OUT = 4000
MAX_TAUGHT_CHARS = 70  # longer texts are not worth the encoder's time
NUM_TOKENIZER_PARAGRAPHS = 12_000
STEPS_BETWEEN_CHECKPOINTS = 150
STEPS_BETWEEN_LINES = 25
COOL_FILE = "cool"


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path("training/runs/sentences.npz"), show_default=True
)
@click.option("--steps", default=2000, show_default=True)
@click.option("--cooling", default=400, show_default=True, help="Steps over which the rates fall to zero.")
@click.option("--tokens-per-batch", default=4096, show_default=True)
@click.option("--matrix-rate", default=4e-3, show_default=True, help="Muon's rate for the matrices.")
@click.option("--table-rate", default=1e-3, show_default=True, help="Adam's rate for the embedding table.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: Path, out: Path, cache: Path, threads: int, **options: float) -> None:
    """Train on permissive rows of DATA and write a 4-bit checkpoint to OUT."""
    settings = Settings(**options)  # type: ignore[arg-type]  # click has checked the types
    torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    examples, held_out = load_examples(data)
    say(f"{len(examples)} training examples, {len(held_out)} held out")

    texts = [turn for example in dict.fromkeys(examples) for turn in example.turns]
    shape = LlamaShape()
    tokenizer = train_tokenizer([*texts, *general_texts(data, NUM_TOKENIZER_PARAGRAPHS)], shape.vocab_size)
    sentences = SentenceEncoder(cache)
    encoder = Encoder(tokenizer, meanings(examples, sentences))
    model = Llama(shape)
    table = embedding_table(tokenizer, sentences, shape.hidden_size, settings.seed)
    once = encoder.encode(list(dict.fromkeys(examples)), random.Random(settings.seed))
    model.model["embed_tokens"].weight.data = teach_table(table, once, settings.seed)
    say(f"tokenizer of {tokenizer.get_vocab_size()} pieces; heads of {len(encoder.frames['user'].head)} ids")

    settings = fit(Learner(model, encoder, settings), batches(examples, encoder, settings), tokenizer, out)
    log = {
        "settings": asdict(settings),
        "num_examples": len(examples),
        **finish(model, encoder, (examples, held_out), out),
    }
    write_json(out / "training_log.json", {**log, "cpu_minutes": round(time.process_time() / 60, 1)})
    say(f"wrote {out}")


def fit(learner: Learner, groups: Iterator[list[Prompted]], tokenizer: Tokenizer, out: Path) -> Settings:
    """All steps. A file OUT/cool begins the cooling early; the settings returned give the same run without it."""
    progress = Progress()
    step = 0
    while step < learner.settings.steps:
        progress.note(step, learner.settings.steps, *learner.learn(next(groups), step))
        step += 1
        if (out / COOL_FILE).exists():
            (out / COOL_FILE).unlink()
            learner.cool_from(step)
        if step % STEPS_BETWEEN_CHECKPOINTS == 0 or step == learner.settings.steps:
            export_checkpoint(learner.model, tokenizer, out)
    return learner.settings


def batches(examples: Sequence[Example], encoder: Encoder, settings: Settings) -> Iterator[list[Prompted]]:
    """Endless passes, each with surfaces varied anew."""
    chance = random.Random(settings.seed)
    while True:
        yield from group(encoder.encode(examples, chance), settings.tokens_per_batch, chance)


def meanings(examples: Sequence[Example], sentences: SentenceEncoder) -> dict[str, NDArray[np.float16]]:
    """Sentence vectors of the short judged turns."""
    texts = [e.turns[-1] for e in dict.fromkeys(examples) if len(e.turns[-1]) <= MAX_TAUGHT_CHARS]
    return dict(zip(texts, sentences.encode(texts), strict=True))


def finish(
    model: Llama, encoder: Encoder, split: tuple[Sequence[Example], Sequence[Example]], out: Path
) -> dict[str, object]:
    """Add the checkpoint's channel of words and move its operating point; held-out numbers in 32 bits and as exported."""
    examples, held_out = split
    rows = random.Random(0).sample(held_out, min(MAX_HELD_OUT, len(held_out)))
    show_all_bits(model)
    dense = measure(model, encoder, rows, "in 32 bits")
    words = add_word_channel(out, examples, held_out)
    moved = move_operating_point(out, held_out)
    exported = measure(read_checkpoint(out), encoder, rows, "as exported")
    return {"word_channel": words, "operating_point": moved, "held_out_in_32_bits": dense, "held_out": exported}


def measure(model: Llama, encoder: Encoder, examples: Sequence[Example], name: str) -> dict[str, dict[str, float]]:
    """Score, print and return the summaries of a held-out set."""
    summaries = report(unsafe_scores(model, encoder, examples), examples)
    for part, summary in summaries.items():
        say(f"{name}, {part}: {summary}")
    return {part: asdict(summary) for part, summary in summaries.items()}


class Progress:
    """Means over the last steps, printed with the CPU time used so far."""

    def __init__(self) -> None:
        self._values: list[tuple[float, float]] = []

    def note(self, step: int, steps: int, loss: float, distance: float) -> None:
        self._values.append((loss, distance))
        if (step + 1) % STEPS_BETWEEN_LINES == 0:
            mean_loss, mean_distance = np.mean(self._values, axis=0)
            say(f"step {step + 1} of {steps}, loss {mean_loss:.4f}, distance {mean_distance:.4f}")
            self._values.clear()


def say(text: str) -> None:
    """Progress with the CPU time used so far."""
    print(f"[{time.process_time() / 60:5.1f} CPU min] {text}", flush=True)


if __name__ == "__main__":
    main()
