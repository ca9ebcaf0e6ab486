"""Every exception has its row on the wire."""

import json
import logging

import pytest

from guardhouse import errors
from guardhouse.server.errors import (
    BodyTimeout,
    BodyTooLarge,
    LoraUnsupported,
    ModelUnavailable,
    describe,
    error_reply,
)
from guardhouse.server.reply import edge_error

OVERFLOW = (
    "AiError: Ai: The estimated number of input and maximum output tokens (5000) exceeded this model context window "
    "limit (4096). (id)"
)
BUSY = "AiError: AiError: Capacity temporarily exceeded, please try again. (id)"
TIMEOUT = "AiError: AiError: Request timeout (id)"
ROWS = [
    (errors.InputError("no turn"), 400, 5006, "AiError: Bad input: Error: no turn (id)"),
    (errors.PolicyError("no code"), 400, 5006, "AiError: Bad input: Error: no code (id)"),
    (errors.ContextOverflow(5000, 4096), 413, 5021, OVERFLOW),
    (errors.UnknownModel("m"), 400, 5007, "AiError: No such model: No such model m or task (id)"),
    (LoraUnsupported("m"), 405, 5005, "AiError: AiError: The model m does not support LoRa inference (id)"),
    (BodyTooLarge(), 413, 3006, "AiError: AiError: Request is too large (id)"),
    (errors.QueueFull(3), 429, 3040, BUSY),
    (errors.DeadlineExceeded(), 408, 3007, TIMEOUT),
    (BodyTimeout(), 408, 3007, TIMEOUT),
    (ModelUnavailable("loading"), 503, 7009, "AiError: Upstream service unavailable: loading (id)"),
    (
        errors.EngineClosed(),
        503,
        7009,
        "AiError: Upstream service unavailable: the engine is shut down (id)",
    ),
    (
        errors.VerdictError("mass 0.01"),
        500,
        8008,
        "AiError: AiError: Internal server error: the model gave no verdict (id)",
    ),
    (errors.CheckpointError("x"), 500, 8008, "AiError: AiError: Internal server error (id)"),
    (KeyError("x"), 500, 8008, "AiError: AiError: Internal server error (id)"),
]


@pytest.mark.parametrize(("error", "status", "code", "message"), ROWS, ids=lambda value: type(value).__name__)
def test_an_exception_becomes_its_row(error: Exception, status: int, code: int, message: str) -> None:
    reply = error_reply(error, "id")
    assert reply.status_code == status
    assert reply.headers["cf-ai-req-id"] == "id"
    assert json.loads(bytes(reply.body)) == {
        "errors": [{"message": message, "code": code}],
        "success": False,
        "result": {},
        "messages": [],
    }


def test_every_error_of_ours_has_a_row() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.GuardhouseError) for kind in kinds)
    assert describe(errors.GuardhouseError()).status == 500


@pytest.mark.parametrize(("error", "seconds"), [(errors.QueueFull(3), "3"), (ModelUnavailable("x"), "2")])
def test_a_refusal_for_now_says_when_to_come_back(error: Exception, seconds: str) -> None:
    assert error_reply(error, "id").headers["retry-after"] == seconds


def test_an_internal_error_is_logged_without_its_message(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        try:
            raise RuntimeError("what a user wrote")
        except RuntimeError as error:
            describe(error)
    assert "RuntimeError" in caplog.text
    assert "what a user wrote" not in caplog.text.replace('raise RuntimeError("what a user wrote")', "")


def test_a_model_name_is_told_in_printable_characters_only() -> None:
    assert describe(errors.UnknownModel("a\r\nb" + "c" * 1000)).description == f"No such model a??b{'c' * 196} or task"


def test_a_malformed_key_has_an_error_chain() -> None:
    body = json.loads(bytes(edge_error(400, 6003, "Invalid request headers").body))
    assert body["result"] is None
    assert body["errors"][0]["error_chain"] == [{"code": 6111, "message": "Invalid format for Authorization header"}]
