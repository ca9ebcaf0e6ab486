"""Guardhouse: a Llama Guard on your own machine.

>>> from guardhouse import Guard
>>> with Guard.load() as guard:
...     guard.check("How do I bake bread?").text
'safe'

Names are loaded when they are first asked for: who wants only the client or the version pays for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardhouse.client import ApiError, AsyncClient, Client, ConnectionFailed
    from guardhouse.errors import GuardhouseError
    from guardhouse.guard.conversation import Conversation, Turn
    from guardhouse.guard.generating import Generation
    from guardhouse.guard.guard import Guard, GuardInfo
    from guardhouse.guard.policy import Category, Policy
    from guardhouse.guard.verdict import Verdict

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

_HOMES = {
    **dict.fromkeys(("ApiError", "AsyncClient", "Client", "ConnectionFailed"), "client"),
    "GuardhouseError": "errors",
    **dict.fromkeys(("Conversation", "Turn"), "guard.conversation"),
    "Generation": "guard.generating",
    **dict.fromkeys(("Guard", "GuardInfo"), "guard.guard"),
    **dict.fromkeys(("Category", "Policy"), "guard.policy"),
    "Verdict": "guard.verdict",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  # slower to load than this file

        return version("guardhouse")
    if name in _HOMES:
        return getattr(import_module(f"guardhouse.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
