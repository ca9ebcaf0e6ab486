"""Ask a Guardhouse server from Python: `Client`, and `AsyncClient` with the same methods.

Knows: nothing but its parts. What is asked, and how answers and failures are read, is written once (ask.py); the two
clients differ in how they wait. Verdicts are `guardhouse.Verdict`, as a local `Guard` gives them.
"""

from guardhouse.client.ask import ApiError, ConnectionFailed
from guardhouse.client.awaiting import AsyncClient
from guardhouse.client.blocking import Client

__all__ = ["ApiError", "AsyncClient", "Client", "ConnectionFailed"]
