"""The command line: arguments -> one call -> a printed result.

Knows: click, exit codes (0 safe or done, 1 unsafe, 2 error), when a terminal is watching.
Never knows: how anything is done.

Flags are generated from `Settings`: a field declared there is a flag here.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from guardhouse.config import Settings, load_settings, models_dir, process_environment, setting_specs
from guardhouse.doctor import examine
from guardhouse.errors import GuardhouseError, InputError, UnknownModel
from guardhouse.guard.guard import EMBEDDED_FOLDER, Guard
from guardhouse.guard.verdict import Verdict
from guardhouse.hub import find_model, installed_models, pull

UNSAFE, ERROR, INTERRUPTED = 1, 2, 130
Command = Callable[..., Any]
CHECK_SETTINGS = ("model", "device", "threads", "threshold", "cache_dir")


def main() -> NoReturn:
    """The console script: every error is one line on stderr, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        code = cli.main(prog_name="guardhouse", standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone: `guardhouse models | head -1`
        sys.stderr.close()
        sys.exit(ERROR)
    except GuardhouseError as error:
        _fail(str(error))
    except Exception as error:  # a fault of ours; whoever wants the traceback runs `python -X dev -m guardhouse.cli`
        if sys.flags.dev_mode:
            raise
        _fail(f"internal error: {type(error).__name__}: {error}")
    sys.exit(code if isinstance(code, int) else 0)


class DefaultToCheck(click.Group):
    """`guardhouse "text"` means `guardhouse check "text"`, and so does text on a pipe."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names_a_verb = bool(args) and (args[0] in self.commands or args[0] in {"--help", "-h", "--version"})
        if not names_a_verb and (args or not sys.stdin.isatty()):
            args = ["check", *args]
        return super().parse_args(ctx, args or ["--help"])


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


@click.group(cls=DefaultToCheck, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="guardhouse")
def cli() -> None:
    """Guardhouse: a Llama Guard on your own machine.

    \b
    guardhouse "How do I bake bread?"      is this text safe?
    guardhouse serve                       answer Workers AI's API on http://127.0.0.1:8787
    """


@cli.command()
@click.argument("text", nargs=-1)
@click.option("--role", type=click.Choice(["user", "assistant"]), default="user", help="who wrote the text")
@click.option("--messages", type=click.File("rb"), help="JSON file with a list of {role, content}; - for stdin")
@click.option("--json", "as_json", is_flag=True, help="print the whole verdict as JSON")
@setting_options(*CHECK_SETTINGS)
def check(text: tuple[str, ...], role: str, messages: Any, as_json: bool, config: Path | None, **flags: object) -> int:
    """Judge a text, or standard input. Exit code 0: safe, 1: unsafe, 2: error."""
    settings = _settings(flags, config)
    if messages is not None and text:
        raise click.UsageError("give a text or --messages, not both")
    conversation = _read_messages(messages) if messages else [{"role": role, "content": _read_text(text)}]
    with _load_guard(settings) as guard:
        verdict = guard.check(conversation, threshold=settings.threshold, all_categories=True)
        click.echo(json.dumps({**verdict.as_dict(), "model": guard.info.name}) if as_json else _verdict_line(verdict))
    return UNSAFE if verdict.flagged else 0


@cli.command()
@setting_options()
def serve(config: Path | None, **flags: object) -> None:
    """Answer Workers AI's HTTP API."""
    from guardhouse.server.serve import serve as run_server  # noqa: PLC0415  # the other verbs need no HTTP

    settings = _settings(flags, config)
    load_guard = partial(_open_guard, find_model(settings), settings)
    run_server(load_guard, settings, partial(click.echo, err=True))


@cli.command("pull")
@click.argument("name")
@click.option("--revision", help="branch, tag or commit")
@setting_options("cache_dir")
def pull_command(name: str, revision: str | None, config: Path | None, **flags: object) -> None:
    """Fetch the checkpoint NAME (owner/name) from the Hugging Face hub, or finish an interrupted fetch."""
    folder = pull(name, _settings(flags, config), click.echo, revision)
    click.echo(f"done. Try: guardhouse check --model {name} 'How do I bake bread?'  ({folder})")


@cli.command()
@setting_options("cache_dir")
def models(config: Path | None, **flags: object) -> None:
    """List the checkpoints on this machine."""
    settings = _settings(flags, config)
    rows = [("embedded", "-", str(EMBEDDED_FOLDER))]
    rows += [(model.name, f"{model.num_bytes / 1e6:,.1f} MB", str(model.path)) for model in installed_models(settings)]
    width = max(len(name) for name, _, _ in rows)
    for name, size, path in rows:
        click.echo(f"{name:<{width}}  {size:>12}  {path}")
    click.echo(f"\nfetch more into {models_dir(settings)} with: guardhouse pull OWNER/NAME", err=True)


@cli.command()
@setting_options(*CHECK_SETTINGS)
def doctor(config: Path | None, **flags: object) -> int:
    """Say what this machine has, what is missing and how to fix it."""

    settings = _settings(flags, config)
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


def _settings(flags: dict[str, object], config: Path | None) -> Settings:
    return load_settings(flags, process_environment(), config)


def _load_guard(settings: Settings) -> Guard:
    """Load, with a bar where a terminal watches and there is something to wait for."""
    model = find_model(settings)
    if model == "embedded" or not sys.stderr.isatty():
        return Guard.load(model, settings=settings)
    from rich.console import Console  # noqa: PLC0415  # slow to import, and seldom needed
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        return _open_guard(model, settings, lambda done, total: bar.update(task, completed=done, total=total))


def _open_guard(model: str | Path, settings: Settings, progress: Callable[[int, int], None]) -> Guard:
    return Guard.load(model, settings=settings, progress=progress)


def _read_text(words: Iterable[str]) -> str:
    text = " ".join(words)
    if text not in {"", "-"}:
        return text
    if not text and sys.stdin.isatty():
        raise click.UsageError("no text given (use - to type it in)")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("standard input is not UTF-8 text") from None


def _read_messages(file: Any) -> list[dict[str, object]]:
    try:
        payload = json.load(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.name} is not valid JSON") from error
    messages = payload.get("messages") if isinstance(payload, dict) else payload
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InputError(f"{file.name} holds no list of messages")
    return messages


def _verdict_line(verdict: Verdict) -> str:
    label = (
        click.style("unsafe", fg="red", bold=True) if verdict.flagged else click.style("safe", fg="green", bold=True)
    )
    codes = f"  {','.join(verdict.codes)}" if verdict.codes else ""
    return f"{label}{codes}  score {verdict.score:.3f}"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"guardhouse: warning: {message}", err=True)


def _fail(message: str) -> NoReturn:
    click.echo(f"guardhouse: {message}", err=True)
    sys.exit(ERROR)


if __name__ == "__main__":
    main()
