"""Guardhouse: a Llama Guard on your own machine.

>>> from guardhouse import Guard
>>> with Guard.load() as guard:
...     guard.check("How do I bake bread?").text
'safe'
"""

from guardhouse.errors import GuardhouseError
from guardhouse.guard.conversation import Conversation, Turn
from guardhouse.guard.generating import Generation
from guardhouse.guard.guard import Guard, GuardInfo
from guardhouse.guard.policy import Category, Policy
from guardhouse.guard.verdict import Verdict

__all__ = [
    "Category",
    "Conversation",
    "Generation",
    "Guard",
    "GuardInfo",
    "GuardhouseError",
    "Policy",
    "Turn",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: reading the metadata takes longer than the rest of this file."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("guardhouse")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
