"""Another model behind OpenAI's API: our own server, and scripted ones that break off."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, served, serving, write_guard_checkpoint
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from guardhouse.upstream import Upstream, UpstreamError

USER = [{"role": "user", "content": "a cake"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "random-guard")
    with served(folder, threshold=1.0, api_keys=("secret",)) as running:
        yield running


def scripted(body: bytes, status: int = 200) -> Starlette:
    async def chat(_: Request) -> Response:
        return Response(body, status, media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


def test_an_answer_is_read_as_it_streams(server: Served) -> None:
    with Upstream(f"{server.url}/v1", api_key="secret") as upstream:
        assert upstream.model == "random-guard"
        assert "".join(upstream.stream_chat(USER)) == "safe"


def test_a_refusal_is_told(server: Served) -> None:
    with Upstream(f"{server.url}/v1") as upstream, pytest.raises(UpstreamError, match="401"):
        list(upstream.stream_chat(USER))
    with Upstream(f"{server.url}/v1", "gpt-4o", "secret") as upstream, pytest.raises(UpstreamError, match="404"):
        list(upstream.stream_chat(USER))
    with Upstream("http://127.0.0.1:1/v1", "a") as upstream, pytest.raises(UpstreamError, match="no answer"):
        list(upstream.stream_chat(USER))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "broke off"),
        (b'data: {"error": {"message": "x"}}\n\n', "broke off with an error"),
        (b"data: nonsense\n\n", "no stream of chat completions"),
        (b"data: []\n\n", "no stream of chat completions"),
    ],
)
def test_a_stream_that_is_cut_is_an_error(body: bytes, why: str) -> None:
    with (
        serving(scripted(body)) as url,
        Upstream(f"{url}/v1", "a") as upstream,
        pytest.raises(UpstreamError, match=why),
    ):
        list(upstream.stream_chat(USER))


def test_what_other_servers_add_is_passed_over() -> None:
    body = (
        b': comment\n\nevent: x\ndata: {"choices": []}\n\ndata: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
        b'data:{"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    )
    with serving(scripted(body)) as url, Upstream(f"{url}/v1", "a") as upstream:
        assert list(upstream.stream_chat(USER)) == ["a"]
