"""Lists as OpenAI's endpoints page them.

Knows: `limit`, `after`, and the list object.
Never knows: what is listed.
"""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from guardhouse.errors import InputError

DEFAULT_LIMIT, MAX_LIMIT = 20, 100


def read_limit(request: Request) -> int:
    """Raises InputError."""
    given = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= MAX_LIMIT:
        raise InputError(f"'limit' must be 1 to {MAX_LIMIT}")
    return int(given)


def page(items: Sequence[dict[str, Any]], limit: int, after: str | None = None) -> dict[str, Any]:
    """The first `limit` items behind the one whose id is `after`; all of them if there is none of that id."""
    ids = [item["id"] for item in items]
    rest = items[ids.index(after) + 1 :] if after in ids else items
    shown = list(rest[:limit])
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(rest) > limit,
    }
