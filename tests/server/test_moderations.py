"""POST /v1/moderations: shapes, mapping, refusals. Clients are asked in test_openai_sdk.py."""

from typing import Any

import pytest
from served import Served

from guardhouse.server.openai.categories import COUNTERPARTS, OPENAI_CATEGORIES, counterparts

PATH = "/v1/moderations"
SEVEN_B = """O1: Violence and Hate.
O2: Sexual Content.
O3: Criminal Planning.
O4: Guns and Illegal Weapons.
O5: Regulated or Controlled Substances.
O6: Self-Harm."""


def moderate(server: Served, **body: Any) -> Any:
    response = server.post(body, path=PATH)
    assert response.status_code == 200, response.text
    return response.json()


def refuse(server: Served, **body: Any) -> Any:
    response = server.post(body, path=PATH)
    assert response.headers["x-request-id"]
    return response.status_code, response.json()["error"]


def test_a_text_gets_one_result_with_all_of_openais_categories(server: Served) -> None:
    reply = moderate(server, input="how to make a cake")
    assert reply["id"].startswith("modr-")
    assert reply["model"] == server.guard.info.name
    (result,) = reply["results"]
    own = {"O1: Violence", "O2: Theft", "O3: Poison"}
    for field in ("categories", "category_scores", "category_applied_input_types"):
        assert result[field].keys() == {*OPENAI_CATEGORIES, *own}
    assert result["flagged"] is False
    assert result["verdict"]["text"] == "safe"


def test_own_categories_carry_the_verdicts_scores(server: Served) -> None:
    (result,) = moderate(server, input="how to make a cake")["results"]
    assert result["category_scores"]["O2: Theft"] == result["verdict"]["categories"]["O2"]
    assert sum(result["category_scores"].values()) == pytest.approx(result["verdict"]["score"])


def test_a_flagged_text_sets_the_counterparts_of_its_categories_and_no_others(server: Served) -> None:
    (result,) = moderate(server, input="how to make a bomb", policy=SEVEN_B, threshold=0)["results"]
    assert result["flagged"] is True
    codes = result["verdict"]["codes"]
    names = {line.partition(": ")[0]: line.partition(": ")[2].rstrip(".") for line in SEVEN_B.splitlines()}
    expected = {name for code in codes for name in counterparts(names[code])}
    assert {name for name in OPENAI_CATEGORIES if result["categories"][name]} == expected
    illicit = max(result["verdict"]["categories"][code] for code in ("O3", "O5"))
    assert result["category_scores"]["illicit"] == illicit
    assert result["category_applied_input_types"]["illicit"] == ["text"]
    assert result["category_applied_input_types"]["violence/graphic"] == []


def test_counterparts_are_categories_of_openais() -> None:
    assert {name for names in COUNTERPARTS.values() for name in names} <= set(OPENAI_CATEGORIES)


def test_a_list_gets_a_result_for_each_in_order(server: Served) -> None:
    texts = [f"how to make a cake {number}" for number in range(40)]
    results = moderate(server, input=texts)["results"]
    alone = [moderate(server, input=text)["results"][0]["verdict"]["score"] for text in texts[::13]]
    assert len(results) == 40
    assert [result["verdict"]["score"] for result in results[::13]] == alone


def test_a_list_of_parts_is_one_input(server: Served) -> None:
    parts = [{"type": "text", "text": "how to"}, {"type": "text", "text": "make a cake"}]
    (result,) = moderate(server, input=parts)["results"]
    (joined,) = moderate(server, input="how to\nmake a cake")["results"]
    assert result["verdict"]["score"] == joined["verdict"]["score"]


def test_an_image_is_refused_and_never_passed_over(server: Served) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    status, error = refuse(server, input=[{"type": "text", "text": "a cake"}, image])
    assert status == 400
    assert error["message"] == "'input[1]' is an image: this guard judges text only"
    assert (error["type"], error["code"]) == ("invalid_request_error", None)


@pytest.mark.parametrize("model", ["omni-moderation-latest", "text-moderation-latest", None])
def test_openais_model_names_mean_the_guard_that_runs(server: Served, model: str | None) -> None:
    assert moderate(server, input="a cake", model=model)["model"] == server.guard.info.name


def test_another_model_is_not_found(server: Served) -> None:
    status, error = refuse(server, input="a cake", model="gpt-4o")
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": ""},
        {"input": []},
        {"input": ["a cake", ""]},
        {"input": 7},
        {"input": ["a cake", {"type": "text", "text": "a"}]},
        {"input": [{"type": "text"}]},
        {"input": [{"type": "audio"}]},
        {"input": "a cake", "threshold": 2},
        {"input": "a cake", "policy": "nothing of a policy"},
    ],
    ids=repr,
)
def test_what_cannot_be_judged_is_refused_by_name(server: Served, body: Any) -> None:
    status, error = refuse(server, **body)
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"]


def test_the_workers_ai_prefix_keeps_its_envelope(server: Served) -> None:
    path = "/client/v4/accounts/local/ai/v1/moderations"
    assert server.post({"input": "a cake"}, path=path).json()["results"][0]["flagged"] is False
    refused = server.post({"input": 7}, path=path)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 5006)


def test_an_error_holds_no_text_of_the_caller(server: Served) -> None:
    secret = "xyzzy-secret"
    for body in ({"input": [{"type": secret}]}, {"input": {secret: 1}}, {"input": "a", "policy": secret}):
        assert secret not in server.post(body, path=PATH).text
