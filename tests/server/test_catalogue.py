"""The catalogue's routes: rows, filters, pages that end, schemas."""

from typing import Any

import jsonschema_rs
import pytest
import requests
from served import ALIAS, Served

from guardhouse.guard.guard import GuardInfo
from guardhouse.server.workers_ai.catalogue import describe_model

ACCOUNT = "/client/v4/accounts/local/ai"


def get(server: Served, path: str, **query: Any) -> requests.Response:
    return requests.get(server.url + path, params=query, timeout=10)


def names(server: Served, **query: Any) -> list[str]:
    response = get(server, f"{ACCOUNT}/models/search", **query)
    assert response.status_code == 200, response.text
    return [row["name"] for row in response.json()["result"]]


def test_every_name_of_the_model_is_a_row(server: Served) -> None:
    body = get(server, f"{ACCOUNT}/models/search").json()
    own, alias = body["result"]
    assert (own["name"], alias["name"]) == (server.guard.info.name, ALIAS)
    assert alias["id"] == "d9b7a55c-cefa-4208-8ab3-11497a2b046c"
    assert alias["source"] == 2
    assert alias["task"]["name"] == "Text Generation"
    assert {"property_id": "context_window", "value": "4096"} in alias["properties"]
    assert "planned_deprecation_date" not in str(body)
    assert (body["success"], body["errors"], body["messages"]) == (True, [], [])
    assert body["result_info"] == {"count": 2, "page": 1, "per_page": 50, "total_count": 2}


@pytest.mark.parametrize(
    "query",
    [
        {"search": "LLAMAGUARD"},
        {"author": "TheBloke"},
        {"task": "text generation", "search": "@hf/"},
        {"source": 2, "search": ALIAS, "hide_experimental": "true", "include_deprecated": "true"},
    ],
)
def test_filters_that_fit_leave_the_model(server: Served, query: dict[str, Any]) -> None:
    assert names(server, **query) == [ALIAS]


@pytest.mark.parametrize("query", [{"search": "whisper"}, {"author": "meta"}, {"task": "Translation"}, {"source": 1}])
def test_filters_that_do_not_fit_leave_nothing(server: Served, query: dict[str, Any]) -> None:
    assert names(server, **query) == []


def test_pages_end_with_an_empty_one(server: Served) -> None:
    pages = [names(server, page=page, per_page=1) for page in (1, 2, 3, 9**99)]
    assert pages == [[server.guard.info.name], [ALIAS], [], []]
    assert names(server, page=2) == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [({"page": 0}, "page"), ({"per_page": "x"}, "per_page"), ({"source": "y"}, "source")],
)
def test_a_parameter_that_is_wrong_is_named(server: Served, query: dict[str, Any], parameter: str) -> None:
    response = get(server, f"{ACCOUNT}/models/search", **query)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5006)
    assert f"query parameter {parameter}: " in response.json()["errors"][0]["message"]


def test_a_marketplace_format_is_refused_rather_than_ignored(server: Served) -> None:
    response = get(server, f"{ACCOUNT}/models/search", format="openrouter")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 5006)


def test_the_embedded_guard_is_listed_as_what_it_is(server: Served) -> None:
    fields = {field: getattr(server.guard.info, field) for field in GuardInfo.__slots__}
    row = describe_model(ALIAS, GuardInfo(**{**fields, "is_embedded": True}))
    assert "embedded guard" in row.description
    assert row.is_experimental
    assert not describe_model(ALIAS, server.guard.info).is_experimental


def test_the_schemas_describe_what_the_model_takes_and_gives(server: Served) -> None:
    schemas = get(server, f"{ACCOUNT}/models/schema", model=ALIAS).json()["result"]
    jsonschema_rs.validate(schemas["input"], {"prompt": "a cake", "max_tokens": 5})
    assert not jsonschema_rs.is_valid(schemas["input"], {"prompt": "a cake", "temperature": 6})
    plain, stream = schemas["output"]["oneOf"]
    assert stream["contentType"] == "text/event-stream"
    jsonschema_rs.validate(plain, server.post({"prompt": "a cake"}).json()["result"])


@pytest.mark.parametrize(("query", "code"), [({"model": "@cf/x/y"}, 5007), ({}, 5006)])
def test_schemas_of_no_model_are_refused(server: Served, query: dict[str, str], code: int) -> None:
    response = get(server, f"{ACCOUNT}/models/schema", **query)
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, code)


def test_tasks_and_authors_are_listed_once(server: Served) -> None:
    tasks = get(server, f"{ACCOUNT}/tasks/search").json()["result"]
    assert [task["name"] for task in tasks] == ["Text Generation"]
    authors = get(server, f"{ACCOUNT}/authors/search").json()["result"]
    assert {"name": "thebloke"} in authors
