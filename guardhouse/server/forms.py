"""Multipart forms with a file that may be larger than other bodies.

Knows: starlette's parser, which keeps large files on disk while they arrive; limits.
Never knows: what the fields mean.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from guardhouse.errors import InputError
from guardhouse.server.errors import BodyTimeout, BodyTooLarge

UPLOAD_TIMEOUT_S = 600.0


@asynccontextmanager
async def read_form(request: Request, max_bytes: int, what: str) -> AsyncIterator[FormData]:
    """The form, whose files are closed afterwards. `what`: the fields that it should hold, for the error.

    Raises BodyTooLarge, BodyTimeout or InputError.
    """
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            form = await MultiPartParser(
                request.headers, _limited(request, max_bytes), max_files=1, max_fields=16
            ).parse()
    except TimeoutError:
        raise BodyTimeout from None
    except (MultiPartException, KeyError, ValueError):
        raise InputError(f"the body is no form with {what}") from None
    try:
        yield form
    finally:
        await form.close()


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise BodyTooLarge
        yield chunk
