"""/openapi.json: made from the routes themselves."""

import jsonschema_rs
import requests
from served import Served


def test_the_document_describes_every_route_and_is_valid(server: Served) -> None:
    document = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    assert document["openapi"] == "3.1.0"
    paths = document["paths"]
    assert {"/health", "/metrics", "/openapi.json"} <= paths.keys()
    run = paths["/client/v4/accounts/{account}/ai/run/{model}"]["post"]
    body = run["requestBody"]["content"]["application/json"]["schema"]
    assert jsonschema_rs.is_valid(body, {"prompt": "hi"})
    assert not jsonschema_rs.is_valid(body, {"prompt": ""})
    assert [parameter["name"] for parameter in run["parameters"]] == ["account", "model"]
    (header,) = paths["/run"]["post"]["parameters"]
    assert (header["name"], header["in"], header["required"]) == ("cf-consn-model-id", "header", True)


def test_an_answer_is_as_the_document_says(server: Served) -> None:
    document = requests.get(f"{server.url}/openapi.json", timeout=10).json()
    run = document["paths"]["/client/v4/accounts/{account}/ai/run/{model}"]["post"]
    schema = {**run["responses"]["200"]["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema_rs.validate(schema, server.post({"prompt": "hi"}).json())
    schema = {**run["responses"]["400"]["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema_rs.validate(schema, server.post({}).json())
