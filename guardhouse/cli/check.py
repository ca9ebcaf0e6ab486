"""`guardhouse check`: one text or conversation, one verdict.

Knows: where the text comes from, how a verdict is shown.
Never knows: how it is judged.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from guardhouse.cli.options import CHECK_SETTINGS, UNSAFE, load_guard, read_settings, setting_options
from guardhouse.errors import InputError
from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict


@click.command()
@click.argument("text", nargs=-1)
@click.option("--role", type=click.Choice(["user", "assistant"]), default="user", help="who wrote the text")
@click.option("--messages", type=click.File("rb"), help="JSON file with a list of {role, content}; - for stdin")
@click.option("--json", "as_json", is_flag=True, help="print the whole verdict as JSON")
@setting_options(*CHECK_SETTINGS)
def check(text: tuple[str, ...], role: str, messages: Any, as_json: bool, config: Path | None, **flags: object) -> int:
    """Judge a text, or standard input. Exit code 0: safe, 1: unsafe, 2: error."""
    settings = read_settings(flags, config)
    if messages is not None and text:
        raise click.UsageError("give a text or --messages, not both")
    conversation = _read_messages(messages) if messages else [{"role": role, "content": _read_text(text)}]
    with load_guard(settings) as guard:
        verdict = guard.check(conversation, threshold=settings.threshold, all_categories=True)
        if as_json:
            click.echo(json.dumps({**verdict.as_dict(), "model": guard.info.name}))
        else:
            show_verdict(verdict, guard.policy_of(conversation), guard.info.name)
    return UNSAFE if verdict.flagged else 0


def show_verdict(verdict: Verdict, policy: Policy, model: str) -> None:
    """A panel where a terminal watches; one line where the output goes elsewhere."""
    if not sys.stdout.isatty():
        click.echo(_verdict_line(verdict))
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import, and not needed by pipes

    from guardhouse.cli.panel import verdict_panel  # noqa: PLC0415

    Console().print(verdict_panel(verdict, policy, model))


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
