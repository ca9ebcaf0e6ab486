"""Another model behind OpenAI's chat API: ask it, and read its answer as it streams.

Knows: /chat/completions and /models as OpenAI's servers and their likes have them.
Never knows: guards.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2
import msgspec

from guardhouse.errors import GuardhouseError

EVENT = "data:"
DONE = "[DONE]"


class UpstreamError(GuardhouseError):
    """The other model cannot be reached, refused, or broke off."""


class Upstream:
    """One server and one of its models.

    >>> with Upstream("http://127.0.0.1:8000/v1") as upstream:                       # doctest: +SKIP
    ...     "".join(upstream.stream_chat([{"role": "user", "content": "Hi"}]))
    'Hello!'
    """

    def __init__(
        self, base_url: str, model: str | None = None, api_key: str | None = None, *, timeout_s: float = 120.0
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(base_url=base_url, headers=headers, timeout=timeout_s)
        self._model = model

    @property
    def model(self) -> str:
        """The one that was asked for, else the first that the server lists. Raises UpstreamError."""
        if self._model is None:
            try:
                response = self._http.get("models")
                self._require_success(response)
                self._model = str(msgspec.json.decode(response.content)["data"][0]["id"])
            except httpx2.TransportError as error:
                raise UpstreamError(f"no answer from {self._http.base_url}: {type(error).__name__}") from error
            except (msgspec.DecodeError, LookupError, TypeError) as error:
                raise UpstreamError(f"{self._http.base_url} lists no model: name one") from error
        return self._model

    def stream_chat(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """The answer's text in pieces. Raises UpstreamError, also in the midst; closing the iterator ends the request."""
        body = {"model": self.model, "messages": list(messages), "stream": True}
        try:
            with self._http.stream("POST", "chat/completions", json=body) as response:
                if not response.is_success:
                    response.read()
                self._require_success(response)
                yield from _texts(response.iter_lines())
        except httpx2.TransportError as error:
            raise UpstreamError(f"no answer from {self._http.base_url}: {type(error).__name__}") from error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _require_success(self, response: httpx2.Response) -> None:
        if not response.is_success:
            raise UpstreamError(f"{self._http.base_url} answered {response.status_code} {response.reason_phrase}")


def _texts(lines: Iterator[str]) -> Iterator[str]:
    """The deltas in an event stream. One that ends without [DONE] was cut."""
    for line in lines:
        if not line.startswith(EVENT):
            continue
        data = line.removeprefix(EVENT).strip()
        if data == DONE:
            return
        try:
            chunk = msgspec.json.decode(data)
            if "error" in chunk:
                raise UpstreamError("the answer broke off with an error")
            choices = chunk.get("choices") or [{}]
            text = choices[0].get("delta", {}).get("content")
        except (msgspec.DecodeError, AttributeError, LookupError, TypeError) as error:
            raise UpstreamError("the answer is no stream of chat completions") from error
        if text:
            yield str(text)
    raise UpstreamError("the answer broke off")
