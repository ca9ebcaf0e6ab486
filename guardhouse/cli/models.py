"""`guardhouse pull` and `guardhouse models`: checkpoints on this machine."""

from pathlib import Path

import click

from guardhouse.cli.options import read_settings, setting_options
from guardhouse.config import models_dir
from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.hub import installed_models, pull


@click.command("pull")
@click.argument("name")
@click.option("--revision", help="branch, tag or commit")
@setting_options("cache_dir")
def pull_command(name: str, revision: str | None, config: Path | None, **flags: object) -> None:
    """Fetch the checkpoint NAME (owner/name) from the Hugging Face hub, or finish an interrupted fetch."""
    folder = pull(name, read_settings(flags, config), click.echo, revision)
    click.echo(f"done. Try: guardhouse check --model {name} 'How do I bake bread?'  ({folder})")


@click.command()
@setting_options("cache_dir")
def models(config: Path | None, **flags: object) -> None:
    """List the checkpoints on this machine."""
    settings = read_settings(flags, config)
    rows = [("embedded", "-", str(EMBEDDED_FOLDER))]
    rows += [(model.name, f"{model.num_bytes / 1e6:,.1f} MB", str(model.path)) for model in installed_models(settings)]
    width = max(len(name) for name, _, _ in rows)
    for name, size, path in rows:
        click.echo(f"{name:<{width}}  {size:>12}  {path}")
    click.echo(f"\nfetch more into {models_dir(settings)} with: guardhouse pull OWNER/NAME", err=True)
