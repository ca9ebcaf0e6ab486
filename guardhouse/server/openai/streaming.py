"""Answers to one request, several choices at once, as they are written.

Knows: which pieces belong to which choice, tasks, errors in the midst of a stream.
Never knows: the shape of an event.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from guardhouse.guard.generating import Piece
from guardhouse.server import sse
from guardhouse.server.context import Context
from guardhouse.server.dialect import error_object
from guardhouse.server.errors import describe
from guardhouse.server.openai.writing import Written
from guardhouse.server.transport import EventStream

OnPiece = Callable[[Piece], None]
Source = Callable[[OnPiece], Awaitable[Written]]  # writes one choice


@dataclass(frozen=True, slots=True)
class Step:
    """Something that became known about a choice: a piece of it, or its end."""

    index: int
    piece: Piece | None = None
    written: Written | None = None


async def write_all(sources: Sequence[Source]) -> list[Written]:
    """Every choice, whole. The first error ends them all."""
    ended: dict[int, Written] = {}
    async with aclosing(write_steps(sources)) as steps:
        async for step in steps:
            if step.written is not None:
                ended[step.index] = step.written
    return [ended[index] for index in range(len(sources))]


async def write_steps(sources: Sequence[Source]) -> AsyncGenerator[Step, None]:
    """Pieces and ends of all choices as they come. The first error ends it; closing it ends the work."""
    loop = asyncio.get_running_loop()
    steps: asyncio.Queue[Step | Exception] = asyncio.Queue()

    def tell(step: Step | Exception) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(steps.put_nowait, step)

    async def follow(index: int, source: Source) -> None:
        outcome = await _settled(source, lambda piece: tell(Step(index, piece=piece)))
        tell(outcome if isinstance(outcome, Exception) else Step(index, written=outcome))

    tasks = [asyncio.create_task(follow(index, source)) for index, source in enumerate(sources)]
    num_open = len(tasks)
    try:
        while num_open:
            step = await steps.get()
            if isinstance(step, Exception):
                raise step
            num_open -= step.written is not None
            yield step
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def event_stream(context: Context, chunks: AsyncGenerator[dict[str, Any], None]) -> Response:
    """Chunks as server-sent events. An error before the first is raised; a later one is an event, without [DONE]."""
    first = sse.event(await anext(chunks))
    return EventStream(first, _events(chunks), context.headers)


async def _events(chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in chunks:
            yield sse.event(chunk)
        yield sse.DONE
    except Exception as error:
        yield b"data: " + msgspec.json.encode(error_object(describe(error), error)) + b"\n\n"
    finally:
        await chunks.aclose()


async def _settled(source: Source, on_piece: OnPiece) -> Written | Exception:
    try:
        return await source(on_piece)
    except Exception as error:  # told as a value: the other choices end with it
        return error
