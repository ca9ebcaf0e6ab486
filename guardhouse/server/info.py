"""GET /info and /version: what runs here.

Knows: the guard's own description, limits.
Never knows: requests, paths on this machine.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from starlette.requests import Request
from starlette.responses import Response

from guardhouse.server.context import Context
from guardhouse.server.reply import json_reply
from guardhouse.server.transport import MAX_BODY


@cache
def installed_version() -> str:
    try:
        return version("guardhouse")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


async def version_only(_: Request) -> Response:
    return json_reply({"version": installed_version()})


async def info(context: Context, _: Request, __: bytes) -> Response:
    about, policy = context.guard.info, context.guard.default_policy
    return context.reply(
        {
            "version": installed_version(),
            "model": about.name,
            "aliases": context.names[1:],
            "embedded": about.is_embedded,
            "adapter": about.adapter,
            "device": about.device,
            "num_parameters": about.num_parameters,
            "num_bytes": about.num_bytes,
            "max_model_len": about.window,
            "max_body_bytes": MAX_BODY,
            "request_timeout_s": context.timeout_s,
            "policy": {
                "name": policy.name,
                "categories": [{"code": category.code, "name": category.name} for category in policy.categories],
            },
        }
    )
