"""HTTP/1.1 requests as they come over the wire: heads, targets, bodies, in whatever pieces, and what is none."""

import asyncio
import json
import time
from itertools import pairwise

import pytest
from applications import GET, LAST_GET, LENGTH_2, Recorder, application, ask, connected, say, say_ok, whole_body
from hypothesis import given, settings
from hypothesis import strategies as st
from served import RUN, Served, serving
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from guardhouse.server.protocol import MAX_HEAD, HttpProtocol
from guardhouse.server.serve import uvicorn_config


def test_the_application_sees_the_request() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        names = ("type", "method", "path", "raw_path", "query_string", "headers", "http_version")
        seen = {name: scope[name] for name in names}
        await say(send, repr([seen, await whole_body(receive)]).encode())

    request = b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: x\r\nX-Y: Z\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"
    answered = ask(answer, request).decode()
    assert "'path': '/a b', 'raw_path': b'/a%20b', 'query_string': b'c=%20d'" in answered
    assert "(b'x-y', b'Z')" in answered
    assert "}, b'body']" in answered


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"/a?b?c", "'raw_path': b'/a', 'query_string': b'b?c'"),
        (b"/a?", "'raw_path': b'/a', 'query_string': b''"),
        (b"//a/b", "'raw_path': b'//a/b', 'query_string': b''"),
        (b"/a?b#c", "'raw_path': b'/a', 'query_string': b'b'"),
        (b"http://x:1/a?b", "'raw_path': b'/a', 'query_string': b'b'"),
    ],
)
def test_a_target_is_split_into_path_and_query(target: bytes, told: str) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, repr({name: scope[name] for name in ("raw_path", "query_string")}).encode())

    assert told in ask(answer, b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % target).decode()


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, await whole_body(receive), headers=LENGTH_2)

    with serving(application(answer)) as url, connected(url) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert connection.recv(1000).endswith(b"\r\n\r\nhi")


def test_an_answer_may_come_before_the_body_and_the_next_request_after_it() -> None:
    body = b"x" * 1_000_000
    first = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert ask(say_ok, first + body + LAST_GET).count(b"HTTP/1.1 200 OK") == 2


def test_a_large_body_is_read_whole() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)  # it arrives, and reading pauses
        await say(send, b"%d" % len(await whole_body(receive)))

    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3000000\r\n\r\n"
    assert b"3000000" in ask(answer, head + b"x" * 3_000_000)


@pytest.mark.parametrize("request_", [b"nonsense\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n"])
def test_what_is_no_request_is_refused(request_: bytes) -> None:
    assert ask(say_ok, request_).startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize("piece", [b"a: b\r\n", b"a"])  # many headers, or one without an end
def test_a_head_without_end_is_refused(piece: bytes) -> None:
    with serving(application(say_ok)) as url, connected(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):  # it is not read to its end
            connection.sendall(piece * ((32 << 20) // len(piece)))


def test_a_large_head_is_refused_in_words() -> None:
    with serving(application(say_ok)) as url, connected(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.1)  # so that the rest comes apart from it
        connection.sendall(b"a: b\r\n" * (MAX_HEAD // 6 + 1))
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_head_as_large_as_it_may_be_is_read() -> None:
    head = GET[:-2] + b"a: b\r\n" * (MAX_HEAD // 6 - 20) + b"connection: close\r\n\r\n"
    assert ask(say_ok, head).startswith(b"HTTP/1.1 200 ")


def test_a_wish_for_another_protocol_is_passed_over() -> None:
    upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    with serving(application(say_ok)) as url, connected(url) as connection:
        for request in (upgrade, GET):
            connection.sendall(request)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


STREAM = (
    b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello"
    b"GET /b?c HTTP/1.1\r\nhost: x\r\n\r\n"
    b"POST /d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-after: y\r\n\r\n"
    b"POST /e HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nfg"
)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(1, len(STREAM) - 1), max_size=12), st.booleans())
def test_requests_are_the_same_however_their_bytes_arrive(cuts: set[int], has_pauses: bool) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, f"{scope['path']} {len(scope['headers'])} {await whole_body(receive)!r} ".encode())

    async def run() -> bytes:
        config = uvicorn_config(application(answer))
        config.load()
        protocol, recorder, call_soon = (
            HttpProtocol(config, ServerState(), {}),
            Recorder(),
            asyncio.get_running_loop().call_soon,
        )
        call_soon(protocol.connection_made, recorder)
        for start, end in pairwise([0, *sorted(cuts), len(STREAM)]):
            call_soon(protocol.data_received, STREAM[start:end])
            if has_pauses:
                await asyncio.sleep(0)
        while not recorder.is_closed:
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return b"".join(recorder.writes)

    answered = asyncio.run(run())
    assert [line for line in answered.split(b"\r\n") if line.startswith(b"/")] == [
        b"/a 2 b'hello' ",
        b"/b 1 b'' ",
        b"/d 2 b'abcde' ",
        b"/e 3 b'fg' ",
    ]


def test_a_body_that_comes_in_pieces_is_read_whole(server: Served) -> None:
    body = json.dumps({"prompt": "how to make a cake"}).encode()
    head = f"POST {RUN} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    with connected(server.url) as connection:
        for piece in (head, body[:5], body[5:6], body[6:]):
            connection.sendall(piece)
            time.sleep(0.05)
        with connection.makefile("rb") as answer:
            assert b'"success":true' in answer.read()
