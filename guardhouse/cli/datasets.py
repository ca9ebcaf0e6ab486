"""What `eval` and `calibrate` share: the flags that name labelled files, and a guard's scores for them behind bars.

Knows: click, when a terminal is watching.
Never knows: what is done with the scores.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from guardhouse.cli.options import Command, load_guard
from guardhouse.config import Settings
from guardhouse.errors import InputError
from guardhouse.evaluation.datasets import Source, load_dataset
from guardhouse.evaluation.examples import Dataset
from guardhouse.evaluation.formats import FORMATS, Columns
from guardhouse.evaluation.report import ModelReport
from guardhouse.evaluation.scoring import Scored, score
from guardhouse.guard.policy import Policy

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FLAGS = ("format_name", "text_column", "response_column", "label_column", "category_column", "unsafe_label", "limit")


def dataset_options(command: Command) -> Command:
    """The datasets, and how to read and judge them."""
    options = (
        click.argument("datasets", nargs=-1, required=True, metavar="DATASET..."),
        click.option("--policy", "policy_file", type=FILE, help="policy file to judge by (TOML, or a category list)"),
        click.option("--format", "format_name", type=click.Choice(FORMATS), help="of all files [default: by columns]"),
        click.option("--text-column", metavar="NAME", help="column with the text, or the prompt"),
        click.option("--response-column", metavar="NAME", help="column with the response; where filled, it is judged"),
        click.option("--label-column", metavar="NAME", help="column that says safe or unsafe"),
        click.option("--category-column", metavar="NAME", help="column with the categories of unsafe rows (O1,O3)"),
        click.option("--unsafe-label", multiple=True, help="a label that means unsafe; all others mean safe"),
        click.option("--limit", type=click.IntRange(min=1), help="rows per dataset, spread evenly over the file"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_dataset_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Split the flags of `dataset_options` off; what is left are settings."""
    return {name: flags.pop(name) for name in FLAGS}


def load_datasets(names: Sequence[str], flags: dict[str, Any]) -> list[Dataset]:
    """Read every file. Two of one name are refused: reports are compared by name."""
    columns = Columns(
        text=flags["text_column"],
        response=flags["response_column"],
        label=flags["label_column"],
        codes=flags["category_column"],
        unsafe_labels=flags["unsafe_label"],
    )
    sources = [Source.parse(name) for name in names]
    for source in sources:
        if [other.name for other in sources].count(source.name) > 1:
            raise InputError(f"two datasets are called {source.name}; name one with NAME=FILE")
    return [
        load_dataset(source, format_name=flags["format_name"], columns=columns, limit=flags["limit"])
        for source in sources
    ]


def score_datasets(
    settings: Settings, datasets: Sequence[Dataset], policy: Policy | None
) -> tuple[list[Scored], ModelReport]:
    """Load the guard, judge everything, say what judged."""
    with load_guard(settings) as guard:
        with _bars() as start_bar:
            results = [score(guard, dataset, policy, start_bar(dataset)) for dataset in datasets]
        info = guard.info
        name = policy.name if policy else info.policy_name
        return results, ModelReport(info.name, name, info.device, info.num_parameters, info.num_bytes)


@contextmanager
def _bars() -> Iterator[Callable[[Dataset], Callable[[int], None] | None]]:
    """One bar per dataset on stderr, where a terminal watches."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import, and seldom needed
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TextColumn("rows"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def start(dataset: Dataset) -> Callable[[int], None]:
            task = progress.add_task(dataset.name, total=len(dataset.examples))
            return lambda done: progress.update(task, completed=done)

        yield start
