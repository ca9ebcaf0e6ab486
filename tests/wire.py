"""What answers on the wire look like: refusals, events.

Knows: the v4 envelope's two error dialects, native server-sent events.
Never knows: servers, guards.
"""

import json
from collections.abc import Iterator
from typing import Any

import requests

USER = [{"role": "user", "content": "how to make a cake"}]
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"


def assert_refused(response: requests.Response, status: int, code: int, text: str = "") -> None:
    body = response.json()
    assert response.status_code == status, body
    assert response.headers["content-type"] == "application/json"
    assert body["success"] is False
    assert body["messages"] == []
    assert [error["code"] for error in body["errors"]] == [code]
    message = body["errors"][0]["message"]
    assert text in message
    if body["result"] == {}:  # it reached the model service: the message repeats the request id
        assert message.startswith("AiError: ")
        assert message.endswith(f" ({response.headers['cf-ai-req-id']})")
    else:
        assert body["result"] is None
        assert "cf-ai-req-id" not in response.headers


def events(response: requests.Response) -> Iterator[Any]:
    for block in response.content.decode().split("\n\n")[:-1]:
        assert block.startswith("data: ")
        data = block.removeprefix("data: ")
        yield data if data == "[DONE]" else json.loads(data)
