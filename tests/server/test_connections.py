"""The life of a connection: keeping alive, pipelines, stops, clients that leave."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from applications import GET, LAST_GET, LENGTH_2, Recorder, application, ask, connected, say, say_ok
from served import RUN, Served, serving, wait_for
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from guardhouse.server.protocol import HttpProtocol
from guardhouse.server.serve import listen, uvicorn_config


def test_what_follows_a_request_that_closes_is_not_answered() -> None:
    assert ask(say_ok, LAST_GET + GET).count(b"HTTP/1.1") == 1


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
