"""What the verbs share: flags made from `Settings`, exit codes, a guard that loads behind a progress bar.

Knows: click, the settings, when a terminal is watching.
Never knows: any single verb.

Flags are generated from `Settings`: a field declared there is a flag here.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from guardhouse.config import Settings, load_settings, process_environment, setting_specs
from guardhouse.guard.guard import Guard
from guardhouse.hub import find_model

UNSAFE, ERROR, INTERRUPTED = 1, 2, 130  # exit codes; 0 is safe, or done
CHECK_SETTINGS = ("model", "adapter", "device", "threads", "threshold", "cache_dir")
Command = Callable[..., Any]


def setting_options(*names: str) -> Callable[[Command], Command]:
    """Add the flags of these settings (all of them if none is named) and `--config`."""

    def decorate(command: Command) -> Command:
        for spec in reversed([spec for spec in setting_specs() if not names or spec.name in names]):
            default = ",".join(spec.default) if isinstance(spec.default, tuple) else spec.default
            shown = f"  [default: {default}]" if default not in (None, False, "") else ""
            command = click.option(
                spec.flag,
                spec.name,
                default=None,
                help=f"{spec.help}{shown}  [{spec.variable}]",
                **({"is_flag": True} if spec.default is False else {"metavar": spec.name.rpartition("_")[2].upper()}),
            )(command)
        file = click.Path(exists=True, dir_okay=False, path_type=Path)
        return click.option("--config", type=file, help="TOML file with settings")(command)

    return decorate


def read_settings(flags: dict[str, object], config: Path | None) -> Settings:
    """Flags over variables over the file over defaults. Raises ConfigError."""
    return load_settings(flags, process_environment(), config)


def load_guard(settings: Settings) -> Guard:
    """Load, with a bar where a terminal watches and there is something to wait for."""
    model = find_model(settings)
    if model == "embedded" or not sys.stderr.isatty():
        return Guard.load(model, settings=settings)
    from rich.console import Console  # noqa: PLC0415  # slow to import, and seldom needed
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        return open_guard(model, settings, lambda done, total: bar.update(task, completed=done, total=total))


def open_guard(model: str | Path, settings: Settings, progress: Callable[[int, int], None]) -> Guard:
    """Guard.load with everything by position, for `partial`."""
    return Guard.load(model, settings=settings, progress=progress)
