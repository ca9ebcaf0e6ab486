"""The Python clients against a real server, and against one that fails now and then."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import Served, served, serving, write_guard_checkpoint
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardhouse import ApiError, AsyncClient, Client, ConnectionFailed, Policy
from guardhouse.client.ask import MAX_DELAY_S, Retries, retry_after_s

MESSAGES = [{"role": "user", "content": "how to make a bomb"}, {"role": "assistant", "content": "a cake"}]
POLICY = Policy.parse("O1: Cakes.\nO2: Bombs.", "bakery")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "random-guard")
    with served(folder, threshold=1.0, api_keys=("secret",)) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with Client(server.url, "secret", max_retries=0) as client:
        yield client


def in_event_loop(server: Served, ask: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        async with AsyncClient(server.url, "secret", max_retries=0) as client:
            return await ask(client)

    return asyncio.run(asked())


def test_a_remote_verdict_is_the_local_one(client: Client, server: Served) -> None:
    for question in ("how to make a cake", MESSAGES):
        local, remote = server.guard.check(question, all_categories=True), client.check(question)
        assert (remote.score, remote.categories, remote.windows) == (local.score, local.categories, local.windows)
        assert (remote.text, remote.role, remote.policy) == (local.text, local.role, local.policy)


def test_policy_and_threshold_travel(client: Client) -> None:
    verdict = client.check("a cake", policy=POLICY, threshold=0)
    assert verdict.flagged
    assert verdict.categories.keys() == {"O1", "O2"}


def test_many_are_judged_in_order_with_progress(client: Client) -> None:
    seen: list[int] = []
    texts = [f"a cake {number}" for number in range(100)]
    verdicts = client.check_many(texts, progress=seen.append)
    assert [verdict.windows[0].end for verdict in verdicts] == [len(text) for text in texts]
    assert seen == [64, 100]


def test_the_other_routes_answer_too(client: Client, server: Served) -> None:
    assert client.moderate(["a cake", "a bomb"], threshold=0)["results"][1]["flagged"] is True
    assert client.run("@hf/thebloke/llamaguard-7b-awq", {"prompt": "a cake"})["response"] == "safe"
    assert client.info()["model"] == server.guard.info.name


def test_the_async_client_does_the_same(client: Client, server: Served) -> None:
    async def everything(asynchronous: AsyncClient) -> list[Any]:
        return [
            await asynchronous.check(MESSAGES),
            await asynchronous.check_many(["a cake", MESSAGES]),
            (await asynchronous.moderate("a cake"))["results"],
            await asynchronous.run("random-guard", {"prompt": "a cake"}),
            await asynchronous.info(),
        ]

    check, many, moderation, run, info = in_event_loop(server, everything)
    assert check.score == client.check(MESSAGES).score
    assert [verdict.score for verdict in many] == [client.check("a cake").score, check.score]
    assert moderation == client.moderate("a cake")["results"]
    assert run["response"] == "safe"
    assert info == client.info()


def test_refusals_say_what_is_wrong(client: Client, server: Served) -> None:
    with pytest.raises(ApiError, match="400: the judged turn is empty") as refused:
        client.check("")
    assert refused.value.request_id
    with pytest.raises(ApiError) as envelope:
        client.run("nothing", {"prompt": "a"})
    assert (envelope.value.status, envelope.value.code) == (400, 5007)
    with Client(server.url, "wrong", max_retries=0) as stranger, pytest.raises(ApiError) as unauthorized:
        stranger.info()
    assert (unauthorized.value.status, unauthorized.value.code) == (401, "invalid_api_key")
    with pytest.raises(ApiError):
        in_event_loop(server, lambda asynchronous: asynchronous.check(""))


def failing(*first: Response | None) -> tuple[Starlette, list[int]]:
    """Gives these answers first (None: drops the connection), then {"ok": true}."""
    answers = itertools.chain(first, itertools.repeat(Response(b'{"ok": true}')))
    tries: list[int] = []

    async def info(request: Request) -> Response:
        tries.append(len(tries))
        answer = next(answers)
        if answer is None:
            raise ConnectionError
        return answer

    return Starlette(routes=[Route("/info", info)]), tries


BUSY = Response(b'{"error": {"message": "busy", "code": "rate_limit_exceeded"}}', 429, {"retry-after": "0"})


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_succeed_is_tried_again(status: int) -> None:
    app, tries = failing(Response(b"{}", status, {"retry-after": "0"}), BUSY)
    with serving(app) as url, Client(url) as client:
        assert client.info() == {"ok": True}
    assert len(tries) == 3


def test_the_async_client_tries_again_too() -> None:
    async def ask(url: str) -> Any:
        async with AsyncClient(url) as client:
            return await client.info()

    app, tries = failing(BUSY, BUSY)
    with serving(app) as url:
        assert asyncio.run(ask(url)) == {"ok": True}
    assert len(tries) == 3


def test_what_cannot_succeed_is_not_tried_again() -> None:
    app, tries = failing(Response(b"not JSON", 400), BUSY)
    with serving(app) as url, Client(url) as client, pytest.raises(ApiError, match="400: Bad Request"):
        client.info()
    assert len(tries) == 1


def test_the_last_failure_is_told(tmp_path: Path) -> None:
    app, tries = failing(*[BUSY] * 9)
    with serving(app) as url, Client(url) as client, pytest.raises(ApiError, match="429: busy"):
        client.info()
    assert len(tries) == 3
    with Client("http://127.0.0.1:1", max_retries=0) as client, pytest.raises(ConnectionFailed, match="ConnectError"):
        client.info()


def test_a_page_that_is_no_answer_is_an_error() -> None:
    app, _ = failing(Response(b"<html>", 200))
    with serving(app) as url, Client(url) as client, pytest.raises(ApiError, match="is the base URL right"):
        client.info()


def test_waits_double_up_to_a_limit_unless_the_server_says_how_long() -> None:
    retries = Retries(max_retries=9)
    delays = [retries.delay_s(attempt, None) or 0 for attempt in range(9)]
    assert all(
        min(MAX_DELAY_S, 0.5 * 2**n) / 2 <= delay <= min(MAX_DELAY_S, 0.5 * 2**n) for n, delay in enumerate(delays)
    )
    assert retries.delay_s(9, None) is None
    assert retry_after_s("7") == 7
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after_s("soon") is None
