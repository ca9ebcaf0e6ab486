"""Tokens and label probabilities in the forms of vLLM and SGLang."""

from typing import Any

import numpy as np
import pytest
from served import Served

from guardhouse.guard.conversation import Conversation, Turn


def post(server: Served, path: str, **body: Any) -> Any:
    response = server.post(body, path=path)
    assert response.status_code == 200, response.text
    return response.json()


def labels(server: Served) -> list[int]:
    return [server.guard.tokenizer.encode(word)[0] for word in ("unsafe", "safe")]


def test_tokenize_and_detokenize_are_inverse(server: Served) -> None:
    found = post(server, "/tokenize", prompt="how to make a cake", return_token_strs=True)
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == server.guard.info.window
    bare = post(server, "/tokenize", prompt="how to make a cake", add_special_tokens=False)["tokens"]
    assert found["tokens"] == [server.guard.tokenizer.bos_token_id, *bare]
    assert post(server, "/detokenize", tokens=bare)["prompt"] == "how to make a cake"


def test_messages_are_tokenized_as_they_would_be_judged(server: Served) -> None:
    found = post(server, "/tokenize", messages=[{"role": "user", "content": "a cake"}])
    assert found["tokens"] == server.guard.prompt_ids("a cake")
    assert found["count"] == server.guard.check("a cake").num_prompt_tokens


def test_vllms_score_of_the_guards_own_prompt_is_the_verdicts_score(server: Served) -> None:
    ids = server.guard.prompt_ids("a cake")
    found = post(server, "/generative_scoring", query=ids, items=[[]], label_token_ids=labels(server))
    assert found["data"][0]["score"] == pytest.approx(server.guard.check("a cake").score, rel=1e-9)
    assert found["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids), "completion_tokens": 0}
    assert (found["object"], found["data"][0]["object"], found["data"][0]["index"]) == ("list", "score", 0)


def test_sglangs_scores_are_probabilities_over_the_whole_vocabulary(server: Served) -> None:
    ids = server.guard.prompt_ids(Conversation((Turn("user", "a cake"),)))
    verdict = server.guard.check("a cake")
    found = post(server, "/v1/score", query=ids, items=[[]], label_token_ids=labels(server))
    assert sum(found["scores"][0]) == pytest.approx(verdict.mass, rel=1e-9)
    shares = post(server, "/v1/score", query=ids, items=[[]], label_token_ids=labels(server), apply_softmax=True)
    assert shares["scores"][0][0] == pytest.approx(verdict.score, rel=1e-9)
    assert found["object"] == "scoring"


def test_query_and_item_may_change_places(server: Served) -> None:
    def scores(query: str, item: str, **options: Any) -> Any:
        return post(server, "/v1/score", query=query, items=[item], label_token_ids=labels(server), **options)["scores"]

    assert scores("how to", " make a cake") == scores(" make a cake", "how to", item_first=True)
    body = {"label_token_ids": labels(server), "add_special_tokens": False}
    forth = post(server, "/generative_scoring", query="how to", items=["make a cake"], **body)
    back = post(server, "/generative_scoring", query="make a cake", items=["how to"], item_first=True, **body)
    assert forth["data"] == back["data"]


def test_several_items_are_scored_in_order(server: Served) -> None:
    items = ["a cake", "a bomb", "the cake"]
    together = post(server, "/v1/score", query="how to make ", items=items, label_token_ids=labels(server))["scores"]
    alone = [
        post(server, "/v1/score", query="how to make ", items=item, label_token_ids=labels(server))["scores"][0]
        for item in items
    ]
    assert np.array_equal(together, alone)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": []}),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [10**6]}),
        ("/v1/score", {"query": "a", "items": ["b"], "label_token_ids": [-1]}),
        ("/v1/score", {"query": "a", "items": [[1]], "label_token_ids": [1]}),
        ("/v1/score", {"query": "a", "items": [], "label_token_ids": [1]}),
        ("/v1/score", {"query": [10**6], "items": [[1]], "label_token_ids": [1]}),
        ("/v1/score", {"query": [2**40], "items": [[1]], "label_token_ids": [1]}),
        ("/generative_scoring", {"query": [], "items": [[]], "label_token_ids": [1]}),
        ("/generative_scoring", {"query": "a", "items": ["a " * 5000], "label_token_ids": [1]}),
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": []}),
        ("/detokenize", {"tokens": [10**6]}),
    ],
    ids=str,
)
def test_what_has_no_score_is_refused(server: Served, path: str, body: Any) -> None:
    response = server.post(body, path=path)
    assert response.status_code == 400, response.text


def test_info_and_version_say_what_runs(server: Served) -> None:
    import requests  # noqa: PLC0415

    info = requests.get(f"{server.url}/info", timeout=10).json()
    assert info["model"] == server.guard.info.name
    assert [row["code"] for row in info["policy"]["categories"]] == ["O1", "O2", "O3"]
    assert requests.get(f"{server.url}/version", timeout=10).json() == {"version": info["version"]}
