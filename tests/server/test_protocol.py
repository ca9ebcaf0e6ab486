"""HTTP/1.1 as it is on the wire: framing, keeping alive, pipelines, stops, and applications and clients that misbehave."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from served import RUN, Served, serving, wait_for
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from guardhouse.server.exchange import MAX_HELD, Exchange
from guardhouse.server.protocol import MAX_HEAD, HttpProtocol
from guardhouse.server.serve import listen, uvicorn_config

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LENGTH_2 = [(b"content-length", b"2")]


def application(answer: Callable[[Scope, Receive, Send], Any]) -> ASGIApp:
    """`answer` for requests; starting and stopping need nothing."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await answer(scope, receive, send)

    return app


async def say(send: Send, *parts: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def say_ok(scope: Scope, receive: Receive, send: Send) -> None:
    await say(send, b"ok", headers=LENGTH_2)


async def whole_body(receive: Receive) -> bytes:
    body, has_more = b"", True
    while has_more:
        message = await receive()
        body, has_more = body + message.get("body", b""), message.get("more_body", False)
    return body


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def ask(answer: Callable[[Scope, Receive, Send], Any], request: bytes) -> bytes:
    """All that comes back until the server closes."""
    with serving(application(answer)) as url, connected(url) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            return answers.read()


class Recorder(asyncio.Transport):
    """The socket's side: what reaches it, write by write; and the connection of one exchange."""

    writable: asyncio.Event | None = None
    is_reading = True
    is_stopping = False
    has_waiting = False

    def __init__(self) -> None:
        super().__init__()
        self.transport = self
        self.server_state = ServerState()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def exchange_on(recorder: Recorder) -> Exchange:
    return Exchange(recorder, {"method": "GET", "http_version": "1.1"}, is_kept_alive=True, expects_continue=False)


def test_head_and_body_leave_in_one_write() -> None:
    recorder = Recorder()
    asyncio.run(say(exchange_on(recorder).send, b"ok", headers=LENGTH_2))
    assert recorder.writes == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]


def test_parts_of_one_turn_leave_together_and_the_last_at_once() -> None:
    recorder = Recorder()

    async def run() -> None:
        send = exchange_on(recorder).send
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b", "more_body": True})
        assert recorder.writes == []
        await asyncio.sleep(0)
        assert recorder.writes[0].endswith(b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
        await send({"type": "http.response.body", "body": b"c", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        assert recorder.writes[1:] == [b"1\r\nc\r\n0\r\n\r\n"]

    asyncio.run(run())


def test_much_is_not_held_back() -> None:
    recorder = Recorder()

    async def run() -> None:
        send = exchange_on(recorder).send
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x" * (MAX_HELD + 1), "more_body": True})
        assert len(recorder.writes) == 1  # before the turn's end

    asyncio.run(run())


def test_a_body_of_unknown_length_is_chunked() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"one", b"", b"two")

    assert ask(answer, LAST_GET).endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_to_http_1_0_a_body_of_unknown_length_ends_with_the_connection() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"one", b"two")

    head, body = ask(answer, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n\r\n", 1)
    assert body == b"onetwo"
    assert b"chunked" not in head


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_answers_that_have_no_body_get_none(method: bytes, status: int) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, b"ok", status=status)

    answered = ask(answer, LAST_GET.replace(b"GET", method))
    assert answered.startswith(b"HTTP/1.1 %d " % status)
    assert answered.endswith(b"connection: close\r\n\r\n")


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


def test_a_slow_reader_holds_the_application_up_and_gets_everything() -> None:
    sent: list[int] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000000")]})
        for number in range(20):
            await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": number < 19})
            sent.append(number)

    with serving(application(answer)) as url, connected(url) as connection:
        connection.sendall(LAST_GET)
        time.sleep(0.3)
        assert len(sent) < 20
        with connection.makefile("rb") as answers:
            assert len(answers.read().split(b"\r\n\r\n", 1)[1]) == 20_000_000


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


def test_what_follows_a_request_that_closes_is_not_answered() -> None:
    assert ask(say_ok, LAST_GET + GET).count(b"HTTP/1.1") == 1


async def fail_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(scope["path"])


async def answer_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def break_a_header(scope: Scope, receive: Receive, send: Send) -> None:
    await say(send, b"ok", headers=[*LENGTH_2, (b"x-a", b"b\r\nset-cookie: c")])


@pytest.mark.parametrize("answer", [fail_at_once, answer_nothing, break_a_header])
def test_an_application_that_fails_answers_500_and_its_message_is_not_logged(
    answer: Callable[[Scope, Receive, Send], Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answered = ask(answer, b"GET /somebodys-text HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert answered.endswith(b"connection: close\r\n\r\nInternal Server Error")
    assert "guardhouse.server" in caplog.text
    assert "somebody" not in caplog.text


@pytest.mark.parametrize("parts", [(b"o",), (b"ok!",), (b"ok", b"!"), (b"o", b"")])
def test_a_body_of_another_length_than_was_said_is_cut_off(parts: tuple[bytes, ...]) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await say(send, *parts, headers=LENGTH_2)

    assert ask(answer, GET) == b""


def test_nothing_can_be_sent_twice_or_out_of_turn() -> None:
    async def run() -> None:
        send = exchange_on(Recorder()).send
        with pytest.raises(RuntimeError):
            await send({"type": "http.response.body"})
        await say(send, b"ok", headers=LENGTH_2)
        for kind in ("http.response.start", "http.response.body"):
            with pytest.raises(RuntimeError):
                await send({"type": kind, "status": 200})

    asyncio.run(run())


def test_the_application_learns_that_the_client_has_gone() -> None:
    found: list[Message] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(await receive())
        found.append(await receive())
        await say(send, b"to nobody")

    with serving(application(answer)) as url:
        with connected(url) as connection:
            connection.sendall(GET)
            assert wait_for(lambda: len(found) == 1)
        assert wait_for(lambda: len(found) == 2)
    assert [message["type"] for message in found] == ["http.request", "http.disconnect"]


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


@contextmanager
def server_of(answer: Callable[[Scope, Receive, Send], Any], **options: Any) -> Iterator[tuple[uvicorn.Server, str]]:
    """A server that the test stops itself."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn_config(application(answer))
    for name, value in options.items():
        setattr(config, name, value)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def test_an_idle_connection_is_closed_in_time_and_a_used_one_is_not() -> None:
    with server_of(say_ok, timeout_keep_alive=0.4) as (_, url), connected(url) as connection:
        for _ in range(4):
            connection.sendall(GET)
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        began = time.monotonic()
        assert connection.recv(1000) == b""
        assert time.monotonic() - began < 2


def test_a_stop_lets_the_running_answer_end_and_closes_idle_connections() -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        await asyncio.to_thread(may_end.wait, 10)
        await say(send, b"ok", headers=LENGTH_2)

    with server_of(answer) as (server, url), connected(url) as busy, connected(url) as idle:
        busy.sendall(GET)
        assert has_begun.wait(10)
        server.should_exit = True
        assert idle.recv(1000) == b""
        may_end.set()
        with busy.makefile("rb") as answers:
            assert answers.read().endswith(b"content-length: 2\r\nconnection: close\r\n\r\nok")


def test_a_stop_does_not_wait_for_ever() -> None:
    has_ended = threading.Event()

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            has_ended.set()

    with server_of(answer, timeout_graceful_shutdown=0.2) as (server, url), connected(url) as connection:
        connection.sendall(GET)
        time.sleep(0.1)
        server.should_exit = True
        assert connection.recv(1000) == b""
        assert has_ended.wait(10)


def test_an_idle_connection_does_not_outlive_the_loop() -> None:
    async def run() -> HttpProtocol:
        config = uvicorn_config(application(say_ok))
        config.load()
        protocol = HttpProtocol(config, ServerState(), {})
        protocol.connection_made(Recorder())
        await asyncio.sleep(0.01)
        return protocol

    assert asyncio.run(run()).transport.is_closing()


def test_answers_to_pipelined_requests_come_whole_and_in_order(server: Served) -> None:
    texts = [f"text number {'x' * number}" for number in range(8)]
    bodies = [json.dumps({"prompt": text}).encode() for text in texts]
    head = "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: {connection}\r\n\r\n"
    with connected(server.url) as connection:
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


def test_a_pipeline_of_thousands_holds_nobody_up() -> None:
    with serving(application(say_ok)) as url, connected(url) as greedy, connected(url) as other:
        greedy.sendall(GET * 5000)
        other.sendall(GET)
        assert other.recv(1000).startswith(b"HTTP/1.1 200")
        answered = b""
        while answered.count(b"HTTP/1.1 200") < 5000:
            answered += greedy.recv(1 << 20)


def test_a_body_that_comes_in_pieces_is_read_whole(server: Served) -> None:
    body = json.dumps({"prompt": "how to make a cake"}).encode()
    head = f"POST {RUN} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    with connected(server.url) as connection:
        for piece in (head, body[:5], body[5:6], body[6:]):
            connection.sendall(piece)
            time.sleep(0.05)
        with connection.makefile("rb") as answer:
            assert b'"success":true' in answer.read()
