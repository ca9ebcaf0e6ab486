"""A verdict as people like to see it in a terminal: label, score bar, categories.

Knows: rich (so it is imported only where a terminal watches), verdicts, policies.
Never knows: where the verdict comes from.
"""

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from guardhouse.guard.policy import Policy
from guardhouse.guard.verdict import Verdict

WIDTH = 30  # cells of a bar
FULL, EMPTY, MARK = "█", "░", "┃"


def verdict_panel(verdict: Verdict, policy: Policy, model: str) -> Panel:
    """The whole verdict."""
    colour = "red" if verdict.flagged else "green"
    label = "unsafe" if verdict.flagged else "safe"
    names = ", ".join(f"{one.code} {one.name}" for one in policy.categories if one.code in verdict.codes)
    title = f"[bold {colour}]{label}[/]" + (f"  {names}" if names else "")
    source = f"{model} · policy {verdict.policy} · {verdict.role} turn · {verdict.num_prompt_tokens} tokens"
    rows: list[Table | Text] = [_score(verdict, colour), _categories(verdict, policy), Text(source, style="dim")]
    if window := _window(verdict):
        rows.insert(2, window)
    return Panel(Group(*rows), title=title, title_align="left", border_style=colour, expand=False)


def bar(share: float, mark: float | None = None, width: int = WIDTH) -> str:
    """A bar of `width` cells, with a mark at the threshold.

    >>> bar(0.5, 0.75, 8)
    '████░░┃░'
    """
    cells = [FULL if (cell + 0.5) / width <= share else EMPTY for cell in range(width)]
    if mark is not None:
        cells[min(width - 1, int(mark * width))] = MARK
    return "".join(cells)


def _score(verdict: Verdict, colour: str) -> Table:
    table = Table.grid(padding=(0, 1))
    drawn = Text(bar(verdict.score, verdict.threshold), style=colour)
    table.add_row("score", drawn, f"{verdict.score:.3f}", Text(f"unsafe from {verdict.threshold:g}", style="dim"))
    return table


def _categories(verdict: Verdict, policy: Policy) -> Table:
    """Shares of the score, in the policy's order; those that the model names are bold."""
    table = Table.grid(padding=(0, 1))
    for category in policy.categories:
        share = verdict.categories[category.code]
        style = "bold" if category.code in verdict.codes else "dim"
        row = (category.code, category.name, bar(share, width=WIDTH // 2), f"{share:.3f}")
        table.add_row(*(Text(cell, style=style) for cell in row))
    return table


def _window(verdict: Verdict) -> Text | None:
    """For a long text: which part of it decided."""
    if len(verdict.windows) < 2:
        return None
    number, top = max(enumerate(verdict.windows, 1), key=lambda pair: pair[1].score)
    where = f"part {number} of {len(verdict.windows)} decided: characters {top.start} to {top.end}"
    return Text(where, style="yellow")
