"""Requests that travel inside others: what a Worker sent, as development tools forward it.

Knows: the headers by which miniflare and older wranglers carry a request to another address.
Never knows: what is asked, or by whom.

* miniflare's remote proxy sends each request to the one URL it was given, with the same method and body: `MF-URL` is the
  original URL, `MF-Header-<name>` the original headers.
* wrangler before 4.36 sends it to `…/accounts/{account}/ai/run/proxy`, with `X-Forwarded` as the original URL (since
  November 2024; before, it is always a run).

The request goes on as what it was; keys are checked after that.
"""

import re
from collections.abc import Awaitable
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PROXY_MARK = "/ai/run/proxy"  # looked for first: most paths lack it
PROXY_PATH = re.compile(r"/client/v4/(accounts/[^/]+/)?ai/run/proxy/?")
OLDEST_RUN = "http://workers-binding.ai/run?version=2"
MF_URL, MF_HEADER, MF_OTHERS = b"mf-url", b"mf-header-", b"mf-"
FRAMING = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding"))  # of the outer request


class Unwrap:
    """The outermost layer: gives every other one the request as its sender wrote it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and (url := original_url(scope)) is not None:
            scope = unwrapped(scope, url)
        return self._app(scope, receive, send)


def original_url(scope: Scope) -> str | None:
    """The URL that a forwarded request was sent to; None where the request is no forwarded one."""
    for name, value in scope["headers"]:
        if name == MF_URL:
            return bytes(value).decode("latin-1")
    if PROXY_MARK in scope["path"] and PROXY_PATH.fullmatch(scope["path"]):
        return Headers(scope=scope).get("x-forwarded", OLDEST_RUN)
    return None


def unwrapped(scope: Scope, url: str) -> Scope:
    """The scope of the request that was sent to `url`; a URL that is none leads to no route."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    return {
        **scope,
        "path": unquote(parts.path),
        "raw_path": parts.path.encode("latin-1", "replace"),
        "query_string": parts.query.encode("latin-1", "replace"),
        "headers": original_headers(scope["headers"]),
    }


def original_headers(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that the sender set, and of the outer request what they leave open: its framing, its key."""
    inner = {
        name.removeprefix(MF_HEADER): value
        for name, value in headers
        if name.startswith(MF_HEADER) and name.removeprefix(MF_HEADER) not in FRAMING
    }
    outer = [(name, value) for name, value in headers if not name.startswith(MF_OTHERS) and name not in inner]
    return [*outer, *inner.items()]
