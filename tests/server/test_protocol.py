"""Writes that are joined: as few packets as can be, every byte, in order."""

import asyncio
import json
import socket
import time

from served import RUN, Served

from guardhouse.server.protocol import MAX_HELD, JoinedWrites


class Recorder(asyncio.Transport):
    """The socket's side: what reaches it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


def test_what_one_turn_writes_leaves_together_and_the_next_turn_alone() -> None:
    async def run() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        assert recorder.writes == []
        await asyncio.sleep(0)
        joined.write(b"event")
        await asyncio.sleep(0)
        return recorder.writes

    assert asyncio.run(run()) == [b"headbody", b"event"]


def test_closing_sends_first_and_nothing_afterwards() -> None:
    async def run() -> Recorder:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        joined.write(b"last")
        joined.close()
        joined.write(b"too late")
        await asyncio.sleep(0)
        return recorder

    recorder = asyncio.run(run())
    assert recorder.is_closed
    assert recorder.writes == [b"last"]


def test_much_is_not_held_back() -> None:
    async def run() -> list[bytes]:
        recorder = Recorder()
        joined = JoinedWrites(recorder, asyncio.get_running_loop())
        for _ in range(3):
            joined.write(b"x" * (MAX_HELD // 2 + 1))
        return list(recorder.writes)  # before the turn's end

    assert [len(data) for data in asyncio.run(run())] == [MAX_HELD + 2]


def test_answers_to_pipelined_requests_come_whole_and_in_order(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    texts = [f"text number {'x' * number}" for number in range(8)]
    bodies = [json.dumps({"prompt": text}).encode() for text in texts]
    head = "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for number, body in enumerate(bodies):
            last = "close" if number == len(bodies) - 1 else "keep-alive"
            connection.sendall(head.format(path=RUN, length=len(body), connection=last).encode() + body)
        with connection.makefile("rb") as answers:
            for text in texts:
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = dict(line.split(b": ", 1) for line in iter(answers.readline, b"\r\n"))
                verdict = json.loads(answers.read(int(headers[b"content-length"])))["result"]["verdict"]
                assert verdict["windows"][0]["end"] == len(text)
            assert answers.read() == b""


def test_a_body_that_comes_in_pieces_is_read_whole(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "how to make a cake"}).encode()
    head = f"POST {RUN} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for piece in (head, body[:5], body[5:6], body[6:]):
            connection.sendall(piece)
            time.sleep(0.05)
        with connection.makefile("rb") as answer:
            assert b'"success":true' in answer.read()
