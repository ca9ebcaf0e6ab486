"""GET /v1/models and /v1/models/{id}: the one guard, under each of its names.

Knows: OpenAI's model object.
Never knows: checkpoints' contents.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from guardhouse.errors import UnknownModel
from guardhouse.server.context import Context


async def list_models(context: Context, _: Request, __: bytes) -> Response:
    return context.reply({"object": "list", "data": [_model(context, name) for name in context.names]})


async def get_model(context: Context, request: Request, _: bytes) -> Response:
    name = request.path_params["model"]
    if name not in context.names:
        raise UnknownModel(name)
    return context.reply(_model(context, name))


def _model(context: Context, name: str) -> dict[str, Any]:
    info = context.guard.info
    created = int((info.path / "config.json").stat().st_mtime)
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "guardhouse",
        "root": info.name,
        "max_model_len": info.window,
    }
