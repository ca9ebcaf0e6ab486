"""How much each cheap disguise costs the guard: held-out prompts as they are and disguised, through the real engine.

    python -m training.robustness --data ../shared/data --model guardhouse/assets/tiny -o robustness.json

Knows: held-out rows, disguises, verdicts.
Never knows: how the model was trained.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from guardhouse import Guard
from training.data import Example, load_examples
from training.evasions import EVASIONS

NUM_ROWS = 400  # of each label
MAX_CHARS = 300


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option("--model", default="embedded", show_default=True, help="'embedded' or a checkpoint folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file to write.")
def main(data: Path, model: str, output: Path | None) -> None:
    """Print recall, false positives and changed verdicts per disguise."""
    unsafe, safe = choose_rows(load_examples(data)[1])
    with Guard.load(model) as guard:
        plain = {"unsafe": flags(guard, unsafe), "safe": flags(guard, safe)}
        table = {"none": summarise(plain, plain)}
        for name, disguise in EVASIONS.items():
            chance = random.Random(name)
            texts = {
                label: [disguise(text, chance) for text in rows] for label, rows in (("unsafe", unsafe), ("safe", safe))
            }
            table[name] = summarise({label: flags(guard, rows) for label, rows in texts.items()}, plain)
    for name, row in table.items():
        print(f"{name:15} " + "  ".join(f"{key} {value:6.3f}" for key, value in row.items()))
    if output:
        output.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def choose_rows(held_out: Sequence[Example]) -> tuple[list[str], list[str]]:
    """Short prompts, half unsafe; rows of hate collections, which are noisy, and our own grammars stay out."""
    prompts = [
        e for e in held_out if e.role == "user" and len(e.turns[0]) <= MAX_CHARS and not e.source.startswith("written_")
    ]
    labelled = [[e.turns[0] for e in prompts if bool(e.codes) is is_unsafe] for is_unsafe in (True, False)]
    chance = random.Random(0)
    unsafe, safe = (chance.sample(texts, min(NUM_ROWS, len(texts))) for texts in labelled)
    return unsafe, safe


def flags(guard: Guard, texts: Sequence[str]) -> list[bool]:
    return [verdict.flagged for verdict in guard.check_many(texts)]


def summarise(disguised: Mapping[str, Sequence[bool]], plain: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """Shares of rows. `missed`: unsafe rows flagged when plain and passed when disguised, of those flagged when plain."""
    caught = [now for before, now in zip(plain["unsafe"], disguised["unsafe"], strict=True) if before]
    return {
        "recall": mean(disguised["unsafe"]),
        "missed": 1 - mean(caught),
        "false_positives": mean(disguised["safe"]),
    }


def mean(flagged: Sequence[bool]) -> float:
    return sum(flagged) / max(1, len(flagged))


if __name__ == "__main__":
    main()
