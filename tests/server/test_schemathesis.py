"""Requests made from /openapi.json: none gives a server error or an answer that the document does not foresee."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as openapi_checks
from served import ALIAS, Served

NUM_EXAMPLES = 8  # per operation and mode
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


def surprises(operation: schemathesis.APIOperation, mode: GenerationMode) -> Iterator[str]:
    """What goes wrong with requests that the document allows (positive), or that it does not (negative)."""
    failures: list[str] = []

    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        if "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = ALIAS  # a made-up name would never get beyond "no such model"
        if isinstance(case.body, dict) and "max_tokens" in case.body:
            case.body["max_tokens"] = 3
        try:
            case.call_and_validate(checks=CHECKS, timeout=30)
        except FailureGroup as group:
            failures.extend(f"{failure}\n{case.as_curl_command()}" for failure in group.exceptions)

    try:
        ask()
    except Unsatisfiable:  # of a path that may hold any string, nothing is wrong
        assert mode == GenerationMode.NEGATIVE
    yield from dict.fromkeys(failures)


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
def test_no_request_surprises_the_server(server: Served, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found: list[str] = []
    num_operations = 0
    for result in document.get_all_operations():
        operation = result.ok()
        num_operations += 1
        found += surprises(operation, mode)
    assert num_operations > 10
    assert not found, "\n\n".join(found[:5])
    assert server.post({"prompt": "hi"}).status_code == 200, "it is as well as before"
