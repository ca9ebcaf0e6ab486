"""How an answer leaves: framing, writes, slow readers, and applications that misbehave."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from applications import GET, LAST_GET, LENGTH_2, Recorder, application, ask, connected, exchange_on, say
from served import serving
from starlette.types import Receive, Scope, Send

from guardhouse.server.exchange import MAX_HELD


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
