"""Write the held-out rows as files that `guardhouse eval` reads.

    python -m training.held_out --data ../shared/data --out training/runs/held_out

`everyday.jsonl`: ordinary benign prompts; `held_out.jsonl`: all rows of the sources; `written.jsonl`: our own grammars.

Knows: rows, their split.
Never knows: models.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import click

from training.data import Example, is_everyday, load_examples


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write to.")
def main(data: Path, out: Path) -> None:
    """Write three files of held-out rows to OUT."""
    held_out = load_examples(data)[1]
    ours = [e for e in held_out if e.source.startswith("written_")]
    theirs = [e for e in held_out if not e.source.startswith("written_")]
    out.mkdir(parents=True, exist_ok=True)
    files = {"everyday": filter(is_everyday, theirs), "held_out": theirs, "written": ours}
    for name, examples in files.items():
        print(f"{name}: {write_rows(out / f'{name}.jsonl', examples)} rows")


def write_rows(path: Path, examples: Iterable[Example]) -> int:
    """One JSON object a line; returns how many."""
    lines = [json.dumps(to_row(e), ensure_ascii=False) + "\n" for e in examples]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def to_row(example: Example) -> dict[str, object]:
    """The columns of the rows beside the project."""
    prompt, *rest = example.turns
    return {
        "source": example.source,
        "prompt": prompt,
        "response": rest[0] if rest else None,
        "label": "unsafe" if example.codes else "safe",
        "cats": list(example.codes),
    }


if __name__ == "__main__":
    main()
