"""`guardhouse chat`: talk with another model, with the guard in between.

Knows: the conversation so far, what is shown when either side is stopped.
Never knows: how anything is judged or generated.

    you ──► guard ──► upstream ──► guard (as it streams) ──► screen

A message that the guard flags is not sent; an answer that it flags ends there. Neither stays in the conversation, so that
one bad turn does not stop all that follow.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardhouse.cli.check import show_verdict
from guardhouse.cli.options import CHECK_SETTINGS, ERROR, UNSAFE, load_guard, read_settings, setting_options
from guardhouse.errors import GuardhouseError
from guardhouse.guard.guard import Guard
from guardhouse.guard.holding import HOLD_CHARS, TextBlocked, released
from guardhouse.guard.verdict import Verdict

if TYPE_CHECKING:
    from guardhouse.upstream import Upstream

Messages = list[dict[str, object]]
HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends it"


@click.command()
@click.option(
    "--upstream", "url", required=True, envvar="OPENAI_BASE_URL", help="base URL, up to /v1", show_envvar=True
)
@click.option("--upstream-model", envvar="OPENAI_MODEL", help="default: the first it lists", show_envvar=True)
@click.option("--upstream-key", envvar="OPENAI_API_KEY", help="its bearer key", show_envvar=True)
@click.option("--system", help="system message for the upstream; not judged")
@click.option(
    "--hold", type=click.IntRange(1), default=HOLD_CHARS, show_default=True, help="characters judged before they show"
)
@setting_options(*CHECK_SETTINGS)
def chat(
    url: str,
    upstream_model: str | None,
    upstream_key: str | None,
    system: str | None,
    hold: int,
    config: Path | None,
    **flags: object,
) -> int:
    """Chat with a model behind an OpenAI-compatible URL, both sides guarded.

    Exit code 0: all went through, 1: something was stopped, 2: something failed.
    """
    from guardhouse.upstream import Upstream  # noqa: PLC0415  # an HTTP client, for this verb alone

    settings = read_settings(flags, config)
    with Upstream(url, upstream_model, upstream_key) as upstream, load_guard(settings) as guard:
        click.echo(f"{upstream.model}, guarded by {guard.info.name}. {HELP}.", err=True)
        return GuardedChat(guard, upstream, settings.threshold, hold, system).run(_lines())


class GuardedChat:
    """Invariant: `_messages` holds only turns that the guard let pass, and ends with an answer (or is empty)."""

    def __init__(
        self, guard: Guard, upstream: "Upstream", threshold: float, hold_chars: int, system: str | None
    ) -> None:
        self._guard = guard
        self._upstream = upstream
        self._threshold = threshold
        self._hold_chars = hold_chars
        self._instructions: Messages = [{"role": "system", "content": system}] if system else []
        self._messages: Messages = []

    def run(self, lines: Iterator[str]) -> int:
        """The exit code. What fails is told, and the next line may do better."""
        code = 0
        for line in lines:
            if line == "/exit":
                break
            if line == "/reset":
                self._messages.clear()
            elif line:
                try:
                    code = max(code, 0 if self._turn(line) else UNSAFE)
                except GuardhouseError as error:
                    click.echo(f"guardhouse: {error}", err=True)
                    code = ERROR
        return code

    def _turn(self, line: str) -> bool:
        """False: one side was stopped."""
        asked: Messages = [*self._messages, {"role": "user", "content": line}]
        verdict = self._judge(asked)
        if verdict.flagged:
            self._stop("not sent", verdict)
            return False
        answer = ""

        def judge(text: str) -> Verdict:
            return self._judge([*asked, {"role": "assistant", "content": text}])

        try:
            pieces = self._upstream.stream_chat([*self._instructions, *asked])
            for part in released(pieces, judge, self._hold_chars):
                answer += part
                click.echo(part, nl=False)
        except TextBlocked as blocked:
            click.echo()
            self._stop("stopped here", blocked.verdict)
            return False
        click.echo()
        if answer.strip():
            self._messages = [*asked, {"role": "assistant", "content": answer}]
        return True

    def _judge(self, messages: Messages) -> Verdict:
        return self._guard.check(messages, threshold=self._threshold, all_categories=True)

    def _stop(self, what: str, verdict: Verdict) -> None:
        click.secho(what, fg="red", bold=True)
        show_verdict(verdict, self._guard.default_policy, self._guard.info.name)


def _lines() -> Iterator[str]:
    """What the user types, or what a pipe holds."""
    prompt = "\n> " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(prompt).strip()
        except EOFError:
            return
