"""Train the embedded guard and write its checkpoint folder. One command, one process, CPU only.

Knows: the order of the steps, their settings, the clock.
Never knows: file formats (export.py), rows (data.py), the template (template.py).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import torch

from training.bags import silence_queries
from training.batches import Encoder, Prompted, group
from training.contexts import Contexts
from training.data import Example, general_texts, load_examples
from training.embeddings import embedding_table
from training.export import export_checkpoint, write_json
from training.learner import Learner, Settings
from training.lessons import prepare_lessons
from training.model import Llama, LlamaShape
from training.operating_point import move_operating_point, read_checkpoint
from training.quantization import show_all_bits
from training.scoring import report, unsafe_scores
from training.sentences import SentenceEncoder
from training.tokenizer import train_tokenizer

MAX_HELD_OUT = 4000
NUM_TOKENIZER_PARAGRAPHS = 12_000
BAG_TOKENS, BAG_RATE = 4, 3.0  # times the later ones
Learn = Callable[[Sequence[Prompted], int], tuple[float, float]]
STEPS_BETWEEN_LINES = 50


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path("training/runs/sentences.npz"), show_default=True
)
@click.option("--bag-steps", default=3000, show_default=True, help="With one layer and no order of words.")
@click.option("--steps", default=2000, show_default=True, help="With all layers.")
@click.option("--cooling", default=600, show_default=True, help="Steps over which the rates fall to zero.")
@click.option("--tokens-per-batch", default=4096, show_default=True)
@click.option("--matrix-rate", default=3e-3, show_default=True, help="Muon's rate for the matrices.")
@click.option("--table-rate", default=7e-4, show_default=True, help="Adam's rate for the embedding table.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(data: Path, out: Path, cache: Path, bag_steps: int, threads: int, **options: float) -> None:
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
    lessons = prepare_lessons(examples, sentences, settings.seed)
    encoder = Encoder(tokenizer, lessons.meanings, lessons.soft_labels)
    say(f"{len(lessons.examples)} rows to learn, {len(lessons.soft_labels)} texts with soft labels")
    model = Llama(replace(shape, num_layers=1))
    table = embedding_table(tokenizer, sentences, shape.hidden_size, settings.seed)
    model.model["embed_tokens"].weight.data = table

    learner = Learner(model, encoder, bag_stage(settings, bag_steps))
    learn_words(learner, lessons.examples)
    measure(model, encoder, held_out[:: max(1, len(held_out) // MAX_HELD_OUT)], "as bags")
    for _ in range(shape.num_layers - 1):
        model.grow()
    learner.begin(settings)
    fit(learner, learner.learn, batches(lessons.examples, encoder, settings, Contexts(examples)))
    export_checkpoint(model, tokenizer, out)
    log = {"settings": {"bag_steps": bag_steps, **asdict(settings)}, "num_examples": len(examples)}
    log |= finish(model, encoder, held_out, out)
    write_json(out / "training_log.json", {**log, "cpu_minutes": round(time.process_time() / 60, 1)})
    say(f"wrote {out}")


def bag_stage(settings: Settings, steps: int) -> Settings:
    """A step of bags is cheap: more tokens each, faster moving rows, no rounding yet."""
    return replace(
        settings,
        steps=steps,
        cooling=steps // 2,
        tokens_per_batch=BAG_TOKENS * settings.tokens_per_batch,
        table_rate=BAG_RATE * settings.table_rate,
        four_bit_share=0.0,
    )


def learn_words(learner: Learner, examples: Sequence[Example]) -> None:
    """The first stage, for a model of one layer."""
    silence_queries(learner.model)
    fit(learner, learner.learn_bags, batches(examples, learner.encoder, learner.settings))


def fit(learner: Learner, learn: Learn, groups: Iterator[list[Prompted]]) -> None:
    """All steps of the learner's stage."""
    progress = Progress()
    for step in range(learner.settings.steps):
        progress.note(step, learner.settings.steps, *learn(next(groups), step))


def batches(
    examples: Sequence[Example], encoder: Encoder, settings: Settings, contexts: Contexts | None = None
) -> Iterator[list[Prompted]]:
    """Endless passes, each with surfaces, and what stands around the judged messages, varied anew."""
    chance = random.Random(settings.seed)
    while True:
        varied = contexts.vary(examples, chance) if contexts else examples
        yield from group(encoder.encode(varied, chance), settings.tokens_per_batch, chance)


def finish(model: Llama, encoder: Encoder, held_out: Sequence[Example], out: Path) -> dict[str, object]:
    """Move the checkpoint's operating point; held-out numbers in 32 bits and as exported."""
    rows = random.Random(0).sample(held_out, min(MAX_HELD_OUT, len(held_out)))
    show_all_bits(model)
    dense = measure(model, encoder, rows, "in 32 bits")
    moved = move_operating_point(out, held_out)
    exported = measure(read_checkpoint(out), encoder, rows, "as exported")
    return {"operating_point": moved, "held_out_in_32_bits": dense, "held_out": exported}


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
