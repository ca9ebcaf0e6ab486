"""`guardhouse quantize`: a dense checkpoint to AWQ 4-bit.

Knows: flags, a bar, how the result is summed up.
Never knows: how anything is quantised.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from guardhouse.quantization.quantize import QuantizeOptions, QuantizeResult, quantize

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
DEFAULTS = QuantizeOptions()


@click.command("quantize")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=FOLDER)
@click.option("--group-size", type=click.IntRange(min=1), default=DEFAULTS.group_size, show_default=True,
              help="inputs that share a scale and a zero")  # fmt: skip
@click.option("--calibration", type=FILE, help="texts to measure activations with: .txt (one per line), or JSONL, CSV, "
              "Parquet with `prompt` and, if any, `response`  [default: built-in texts]")  # fmt: skip
@click.option("--texts", "num_texts", type=click.IntRange(min=1), default=DEFAULTS.num_texts, show_default=True,
              help="calibration texts, at most")  # fmt: skip
@click.option("--grid", type=click.IntRange(min=1), default=DEFAULTS.grid, show_default=True,
              help="steps of the scale search")  # fmt: skip
@click.option("--method", type=click.Choice(["awq", "rtn"]), default=DEFAULTS.method, show_default=True,
              help="rtn: round to nearest, without calibration")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="[default: one per core]")
@click.option("--max-shard-gb", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True,
              help="larger weights are split")  # fmt: skip
def quantize_command(
    source: Path,
    target: Path,
    calibration: Path | None,
    max_shard_gb: float,
    **options: object,
) -> None:
    """Quantise the dense Llama checkpoint in folder SOURCE into the new folder TARGET: AWQ, 4 bit, GEMM layout.

    A run that was interrupted goes on when it is started again with the same arguments. The folder is as AutoAWQ writes it.
    """
    chosen = QuantizeOptions(calibration=calibration, max_shard_bytes=int(max_shard_gb * 1e9), **options)  # type: ignore[arg-type]
    with _bar() as progress:
        result = quantize(source, target, chosen, progress)
    click.echo(_summary(result))


def _summary(result: QuantizeResult) -> str:
    lines = [f"{result.folder}: {result.num_bytes / 1e6:,.1f} MB of weights"]
    if result.errors:
        error, plain = (sum(column) for column in zip(*result.errors, strict=True))
        share = error / plain if plain else 1.0
        lines.append(
            f"the layers' output error ({result.num_tokens:,} tokens): {share:.2f} times that of rounding to nearest"
        )
    lines.append(f"try: guardhouse check --model {result.folder} 'How do I bake bread?'")
    return "\n".join(lines)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where a terminal watches; else a line per layer, for logs of long runs."""
    if not sys.stderr.isatty():
        yield lambda done, total: click.echo(f"layer {done} of {total} done", err=True) if done else None
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import, and seldom needed
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        *Progress.get_default_columns()[:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("layers", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
