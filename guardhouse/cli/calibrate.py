"""`guardhouse calibrate`: a threshold for a target, from one's own labelled rows.

Knows: flags, the settings file that is written.
Never knows: how a threshold is chosen.
"""

from pathlib import Path

import click
import numpy as np

from guardhouse.cli.datasets import dataset_options, load_datasets, score_datasets, take_dataset_flags
from guardhouse.cli.options import CHECK_SETTINGS, read_settings, setting_options
from guardhouse.errors import InputError
from guardhouse.evaluation.calibration import ThresholdChoice, choose_threshold
from guardhouse.guard.policy import Policy

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@dataset_options
@click.option("--target-fpr", type=SHARE, help="flag at most this share of safe rows, 0.01 for instance")
@click.option("--target-recall", type=SHARE, help="flag at least this share of unsafe rows")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="write it as a settings file")
@setting_options(*(name for name in CHECK_SETTINGS if name != "threshold"))
def calibrate(
    datasets: tuple[str, ...],
    policy_file: Path | None,
    target_fpr: float | None,
    target_recall: float | None,
    output: Path | None,
    config: Path | None,
    **flags: object,
) -> None:
    """Choose the threshold that meets a target on your own labelled rows (files as for `eval`, taken together).

    The rows should be like those the guard will see, and none that you measure it with later.

    \b
    guardhouse calibrate labelled.csv --target-fpr 0.01 -o guard.toml
    guardhouse serve --config guard.toml
    """
    if (target_fpr is None) == (target_recall is None):
        raise click.UsageError("give --target-fpr or --target-recall")
    policy = Policy.load(policy_file) if policy_file else None
    loaded = load_datasets(datasets, take_dataset_flags(flags))
    results, model = score_datasets(read_settings(flags, config), loaded, policy)
    if lost := sum(sum(result.unjudged.values()) for result in results):
        raise InputError(f"{lost} rows have no verdict; see guardhouse eval")
    scores, labels = (np.concatenate([getattr(one, name) for one in results]) for name in ("scores", "is_unsafe"))
    choice = choose_threshold(scores, labels, target_fpr=target_fpr, target_recall=target_recall)
    click.echo(f"threshold {choice.threshold:.6g} for {model.name}, policy {model.policy}\n{_expectation(choice)}")
    if output:
        lines = [f"# {line}\n" for line in (f"{model.name}, policy {model.policy}", *_expectation(choice).split("\n"))]
        output.write_text("".join(lines) + f"threshold = {choice.threshold!r}\n", encoding="utf-8")


def _expectation(choice: ThresholdChoice) -> str:
    return (
        f"from {choice.num_safe:,} safe and {choice.num_unsafe:,} unsafe rows; on rows it was not chosen on (5 folds)\n"
        f"it flagged {100 * choice.fpr:.2f} % of the safe and {100 * choice.recall:.1f} % of the unsafe ones"
    )
