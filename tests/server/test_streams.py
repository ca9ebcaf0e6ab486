"""Many streams at once: none stalls, none leaks, whether their readers stay or leave."""

import asyncio
import json
import os
from pathlib import Path

from served import RUN, Served, wait_for

NUM_STREAMS = 256
BODY = {"prompt": "how to make a cake", "raw": True, "stream": True, "max_tokens": 12}


async def stream(server: Served, number: int, *, leaves: bool) -> bytes:
    """All that came; of a reader that leaves, what came with the first event."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**BODY, "seed": number + 1, "temperature": 1.0, "max_tokens": 400 if leaves else 12}).encode()
    head = f"POST {RUN} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        return await (reader.readuntil(b'"p":') if leaves else reader.read())
    finally:
        writer.close()


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


def test_256_streams_neither_stall_nor_leak(server: Served) -> None:
    assert server.wait_until_idle()
    num_files = num_open_files()

    async def run() -> list[bytes]:
        streams = (stream(server, number, leaves=number % 4 == 0) for number in range(NUM_STREAMS))
        async with asyncio.timeout(120):
            return await asyncio.gather(*streams)

    found = asyncio.run(run())
    whole = [data for number, data in enumerate(found) if number % 4]
    assert all(b" 200 OK\r\n" in data for data in found)
    assert all(b"data: [DONE]\n\n" in data for data in whole)
    assert server.wait_until_idle(30), "a stream whose reader left is still running"
    stats = server.guard.engine_stats()
    assert stats.num_free_blocks + stats.num_pinned_blocks == stats.num_blocks
    assert wait_for(lambda: num_open_files() <= num_files + 2), "connections stay open"
    assert server.post({"prompt": "hi"}).status_code == 200
