"""`Client`: ask a server and wait.

Knows: connections, time.
Never knows: what is sent and how it is read (ask.py).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx2

from guardhouse.client.ask import (
    DEFAULT_URL,
    Ask,
    CheckOptions,
    ConnectionFailed,
    Judged,
    Retries,
    body_of,
    check_ask,
    chunk_ask,
    chunks_of,
    headers_of,
    info_ask,
    moderate_ask,
    read_answer,
    run_ask,
)
from guardhouse.guard.verdict import Verdict

T = TypeVar("T")


class Client:
    """A server, and how to ask it. Thread-safe; keeps its connections open until `close`.

    >>> with Client() as client:                                  # doctest: +SKIP
    ...     client.check("How do I bake bread?").flagged
    False

    Every method raises ApiError where the server refuses, ConnectionFailed where there is no answer; both only after
    `max_retries` further tries where trying again can help. `timeout_s` is for one try.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        self._retries = Retries(max_retries)
        self._http = httpx2.Client(base_url=base_url, headers=headers_of(api_key), timeout=timeout_s)

    def check(self, conversation: Judged, **options: Unpack[CheckOptions]) -> Verdict:
        """Judge a text, or the last turn of a conversation."""
        return self._send(check_ask(conversation, options))

    def check_many(
        self,
        conversations: Iterable[Judged],
        *,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[CheckOptions],
    ) -> list[Verdict]:
        """Judge many, in order. `progress` gets the number that is done. The first error ends it."""
        verdicts: list[Verdict] = []
        for chunk in chunks_of(conversations):
            judged = self._send(chunk_ask(chunk, options))
            verdicts += judged
            if progress:
                progress(len(verdicts))
        return verdicts

    def moderate(self, texts: str | Sequence[str], **options: object) -> dict[str, Any]:
        """The reply of /v1/moderations, as OpenAI has it."""
        return self._send(moderate_ask(texts, options))

    def run(self, model: str, inputs: Mapping[str, object], *, account: str = "local") -> dict[str, Any]:
        """Workers AI's run route; what it calls `result`."""
        return self._send(run_ask(model, inputs, account))

    def info(self) -> dict[str, Any]:
        """What runs there."""
        return self._send(info_ask())

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, ask: Ask[T]) -> T:
        for attempt in range(self._retries.max_retries + 1):
            response, failure = None, None
            try:
                response = self._http.request(ask.method, ask.path, **body_of(ask))
            except httpx2.TransportError as error:
                failure = error
            delay_s = self._retries.delay_s(attempt, response)
            if response is not None and (response.is_success or delay_s is None):
                return read_answer(ask, response)
            if delay_s is None:
                break
            time.sleep(delay_s)
        raise ConnectionFailed(f"no answer from {self._http.base_url}: {type(failure).__name__}") from failure
