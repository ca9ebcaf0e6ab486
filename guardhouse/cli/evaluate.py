"""`guardhouse eval`: how well a guard judges labelled rows.

Knows: flags, the tables in the terminal, what makes the exit code.
Never knows: how anything is measured.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardhouse.cli.datasets import FILE, dataset_options, load_datasets, score_datasets, take_dataset_flags
from guardhouse.cli.options import CHECK_SETTINGS, UNSAFE, read_settings, setting_options
from guardhouse.evaluation.baseline import DEFAULT_TOLERANCE, Change, compare, uncompared
from guardhouse.evaluation.html import write_html
from guardhouse.evaluation.metrics import METRICS
from guardhouse.evaluation.report import Estimate, Report, build_report, read_json, to_json, write_json
from guardhouse.evaluation.shown import show
from guardhouse.guard.policy import Policy

if TYPE_CHECKING:
    from rich.table import Table

REGRESSION = UNSAFE  # the exit code where a number got worse
SHOWN = ("auprc", "auroc", "f1", "precision", "recall", "fpr", "tpr_at_fpr_1", "tpr_at_fpr_5", "ece")
WIDE = 200  # characters, where no terminal says how many
OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.command("eval")
@dataset_options
@click.option(
    "-o", "--output", multiple=True, type=OUTPUT, help="write the report: .json, or .html with plots; repeatable"
)
@click.option("--json", "as_json", is_flag=True, help="print the report as JSON instead of tables")
@click.option("--baseline", type=FILE, help="an earlier report.json; exit code 1 if a number got worse")
@click.option("--tolerance", type=click.FloatRange(min=0), default=DEFAULT_TOLERANCE, show_default=True,
              help="a loss up to this is no regression")  # fmt: skip
@click.option("--resamples", "num_resamples", type=click.IntRange(min=0), default=1000, show_default=True,
              help="behind the 95 % intervals; 0: none")  # fmt: skip
@setting_options(*CHECK_SETTINGS)
def evaluate(  # noqa: PLR0913, PLR0917  # one parameter per flag
    datasets: tuple[str, ...],
    policy_file: Path | None,
    output: tuple[Path, ...],
    as_json: bool,
    baseline: Path | None,
    tolerance: float,
    num_resamples: int,
    config: Path | None,
    **flags: object,
) -> int:
    """Measure a guard on labelled rows: JSONL, CSV, TSV or Parquet files, also with .gz.

    Read as they are: the OpenAI moderation samples, ToxicChat, XSTest and HarmBench. Any other file needs a text and a
    label column. Exit code 0: done, 1: worse than the baseline, 2: error.

    \b
    guardhouse eval samples-1680.jsonl.gz xstest_prompts.csv -o report.json -o report.html
    guardhouse eval samples-1680.jsonl.gz xstest_prompts.csv --model mine --baseline report.json
    """
    _check_outputs(output)
    before = read_json(baseline) if baseline else None
    policy = Policy.load(policy_file) if policy_file else None
    loaded = load_datasets(datasets, take_dataset_flags(flags))
    settings = read_settings(flags, config)
    results, model = score_datasets(settings, loaded, policy)
    report = build_report(results, model, settings.threshold, num_resamples)
    changes = compare(before, report, tolerance) if before else None
    for path in output:
        if path.suffix == ".json":
            write_json(report, path)
        else:
            write_html(report, path, changes)
    if as_json:
        click.echo(to_json(report), nl=False)
    else:
        _print_tables(report)
    return _show_changes(changes, uncompared(before, report)) if before and changes is not None else 0


def _check_outputs(paths: Sequence[Path]) -> None:
    """Before the work is done, not after it."""
    for path in paths:
        if path.suffix not in {".json", ".html"}:
            raise click.UsageError(f"--output {path}: give a file that ends in .json or .html")
        if not path.absolute().parent.is_dir():
            raise click.UsageError(f"--output {path}: no such folder")


def _print_tables(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415  # slow to import, and few verbs draw tables

    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    model = report.model
    console.print(
        f"{model.name} on {model.device}, policy {model.policy}, threshold {report.threshold:g}", markup=False
    )
    console.print(_metric_table(report))
    if any(dataset.categories for dataset in report.datasets):
        console.print()
        console.print(_category_table(report))
    console.print(
        "± half of the 95 % interval; – undefined: recall needs unsafe rows, FPR needs safe ones", style="dim"
    )
    for dataset in report.datasets:
        for reason, count in dataset.skipped.items():
            console.print(f"{dataset.name}: {count} rows left out: {reason}", style="yellow", markup=False)
        for reason, count in dataset.unjudged.items():
            console.print(f"{dataset.name}: {count} rows have no verdict ({reason})", style="red", markup=False)


def _metric_table(report: Report) -> "Table":
    table = _new_table("dataset", "rows", "unsafe", *(METRICS[name].label for name in SHOWN), "rows/s")
    for dataset in report.datasets:
        cells = [_cell(name, dataset.metrics[name]) for name in SHOWN]
        counts = [f"{dataset.num_judged:,}", f"{dataset.num_unsafe:,}"]
        table.add_row(dataset.name.replace("[", r"\["), *counts, *cells, f"{dataset.rows_per_s:,.0f}")
    return table


def _category_table(report: Report) -> "Table":
    """AUPRC of one category against all other rows, and how many rows have it."""
    codes = sorted({code for dataset in report.datasets for code in dataset.categories})
    table = _new_table("AUPRC by category", *codes)
    for dataset in report.datasets:
        found = dataset.categories
        cells = [
            f"{_cell('auprc', found[code].auprc)}\n[dim]{found[code].num_unsafe} rows[/]" if code in found else "–"
            for code in codes
        ]
        if found:
            table.add_row(dataset.name.replace("[", r"\["), *cells)
    return table


def _new_table(first: str, *others: str) -> "Table":
    from rich.table import Table  # noqa: PLC0415

    table = Table(show_edge=False, header_style="bold", show_lines=True)
    table.add_column(first, overflow="fold")
    for title in others:
        table.add_column(title, justify="right")
    return table


def _cell(name: str, estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return show(name, estimate)
    half = (estimate.high - estimate.low) / 2
    width = f"{100 * half:.1f}" if METRICS[name].unit == "%" else f"{half:.3f}"
    return f"{show(name, estimate)}\n[dim]±{width}[/]"


def _show_changes(changes: Sequence[Change], missing: Sequence[str]) -> int:
    """On stderr, so that --json stays JSON."""
    for name in missing:
        click.echo(f"{name}: only in one of the two reports, not compared", err=True)
    worse = [change for change in changes if change.is_worse]
    for change in worse:
        click.echo(f"{click.style('worse', fg='red')}  {change}", err=True)
    if not worse:
        click.echo(f"nothing got worse than the baseline ({len(changes)} numbers compared)", err=True)
    return REGRESSION if worse else 0
