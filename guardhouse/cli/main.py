"""The console script: which verbs there are, and what becomes of their errors.

Knows: the verbs, exit codes of errors.
Never knows: what a verb does.
"""

import sys
import warnings
from typing import Any, NoReturn

import click

from guardhouse.cli.calibrate import calibrate
from guardhouse.cli.chat import chat
from guardhouse.cli.check import check
from guardhouse.cli.doctor import doctor
from guardhouse.cli.evaluate import evaluate
from guardhouse.cli.models import models, pull_command
from guardhouse.cli.options import ERROR, INTERRUPTED
from guardhouse.cli.quantize import quantize_command
from guardhouse.cli.serve import serve
from guardhouse.errors import GuardhouseError

VERBS = (
    check,
    chat,
    serve,
    pull_command,
    models,
    doctor,
    evaluate,
    calibrate,
    quantize_command,
)  # in the order of the help text


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


@click.group(cls=DefaultToCheck, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="guardhouse")
def cli() -> None:
    """Guardhouse: a Llama Guard on your own machine.

    \b
    guardhouse "How do I bake bread?"      is this text safe?
    guardhouse serve                       answer Workers AI's API on http://127.0.0.1:8787
    """


for verb in VERBS:
    cli.add_command(verb)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"guardhouse: warning: {message}", err=True)


def _fail(message: str) -> NoReturn:
    click.echo(f"guardhouse: {message}", err=True)
    sys.exit(ERROR)
