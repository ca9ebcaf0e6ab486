"""`guardhouse doctor`: what this machine can do, printed."""

from pathlib import Path

import click

from guardhouse.cli.options import CHECK_SETTINGS, ERROR, read_settings, setting_options
from guardhouse.doctor import examine
from guardhouse.errors import UnknownModel
from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.hub import find_model


@click.command()
@setting_options(*CHECK_SETTINGS)
def doctor(config: Path | None, **flags: object) -> int:
    """Say what this machine has, what is missing and how to fix it."""

    settings = read_settings(flags, config)
    try:
        found = find_model(settings)
        folder = EMBEDDED_FOLDER if found == "embedded" else Path(found)
    except UnknownModel:
        folder = None
    marks = {
        "good": click.style("ok", fg="green"),
        "note": click.style("--", fg="yellow"),
        "bad": click.style("!!", fg="red"),
    }
    findings = list(examine(settings, folder))
    for finding in findings:
        fix = f"\n{'':14}fix: {finding.fix}" if finding.fix else ""
        click.echo(f"{marks[finding.level]} {finding.subject:<10} {finding.detail}{fix}")
    return ERROR if any(finding.level == "bad" for finding in findings) else 0
