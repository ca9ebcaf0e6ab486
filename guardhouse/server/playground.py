"""The playground's files, as they lie in static/: one page, its styles and its modules.

Knows: which files there are, their types, digests, and the headers that fence the page in.
Never knows: guards, keys, texts. The page itself asks the public routes.

The page may load and call nothing but this server, no script or style may stand in its markup, and no text may become
markup (trusted types): what people paste into a moderation tool is hostile by nature.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from guardhouse.server.routing import HandlerRoute

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
PAGE_PATHS = ("/", "/playground")
ASSET_PREFIX = "/playground/"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-cache",  # kept, but asked after every time: an upgrade shows at once
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file in memory; the digest is its entity tag."""

    content: bytes
    media_type: str
    etag: str


class Playground:
    """Serves the page at / and /playground, and its files below /playground/."""

    def __init__(self, files: Mapping[str, StaticFile]) -> None:
        self._files = files

    @classmethod
    def load(cls, folder: Path = STATIC) -> "Playground":
        """Read every file whose type is known; they are small and few."""
        return cls({path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in MEDIA_TYPES})

    def routes(self) -> list[HandlerRoute]:
        """A route per file, so that any other path stays the unknown route it was."""
        names = {**dict.fromkeys(PAGE_PATHS, PAGE), **{ASSET_PREFIX + name: name for name in self._files}}
        return [HandlerRoute(path, partial(self._serve, name=name), "GET") for path, name in names.items()]

    async def _serve(self, request: Request, name: str) -> Response:
        return reply(self._files[name], request.headers)


def reply(file: StaticFile, asked: Headers) -> Response:
    """The file, or 304 where the caller has it already."""
    headers = {**HEADERS, "etag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in asked.get("if-none-match", "").split(",")]
    if file.etag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.media_type})


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
