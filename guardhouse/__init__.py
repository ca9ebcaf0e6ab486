"""Guardhouse: a Llama Guard on your own machine.

>>> from guardhouse import Guard
>>> with Guard.load() as guard:
...     guard.check("How do I bake bread?").text
'safe'
"""

from typing import TYPE_CHECKING

from guardhouse.errors import GuardhouseError
from guardhouse.guard.conversation import Conversation, Turn
from guardhouse.guard.generating import Generation
from guardhouse.guard.guard import Guard, GuardInfo
from guardhouse.guard.policy import Category, Policy
from guardhouse.guard.verdict import Verdict

if TYPE_CHECKING:
    from guardhouse.client import ApiError, AsyncClient, Client, ConnectionFailed

__all__ = [
    "ApiError",
    "AsyncClient",
    "Category",
    "Client",
    "ConnectionFailed",
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


def __getattr__(name: str) -> object:
    """What takes longer to load than the rest of this file, looked up when asked for."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("guardhouse")
    if name in {"ApiError", "AsyncClient", "Client", "ConnectionFailed"}:
        from guardhouse import client  # noqa: PLC0415  # an HTTP client is not needed to judge

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
