"""`guardhouse serve`: the HTTP server in the foreground."""

from functools import partial
from pathlib import Path

import click

from guardhouse.cli.options import open_guard, read_settings, setting_options
from guardhouse.hub import find_model


@click.command()
@setting_options()
def serve(config: Path | None, **flags: object) -> None:
    """Answer Workers AI's HTTP API."""
    from guardhouse.server.serve import serve as run_server  # noqa: PLC0415  # the other verbs need no HTTP

    settings = read_settings(flags, config)
    load_guard = partial(open_guard, find_model(settings), settings)
    run_server(load_guard, settings, partial(click.echo, err=True))
