"""Our validator and the reference service's own (npm's @cloudflare/cabidela) say the same about thousands of bodies."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guardhouse.errors import InputError
from guardhouse.server.validate import validate
from guardhouse.server.workers_ai.inference import SHORTCUT, parse_input
from guardhouse.server.workers_ai.schema import RUN_INPUT_SCHEMA, RunInput

FOLDER = Path(__file__).resolve().parents[1] / "node"
NUM_BODIES = 5000
TURN = {"role": "user", "content": "x"}
NAMES = sorted({name for branch in RUN_INPUT_SCHEMA["oneOf"] for name in branch["properties"]} | {"unknown"})
SCALARS: list[Any] = [None, True, False, 0, 1, -1, 5, 6, 51, 1.5, 0.5, 1e10, 1e20, "", "x", "true", "json_object"]
ANYTHING: list[Any] = [*SCALARS, [], {}, ["a"], [1], [None], [{}], [[]], [True], ["a", None]]
LIKELY: dict[str, list[Any]] = {
    "messages": [
        *(
            [TURN],
            [TURN, TURN],
            [{"role": "user"}],
            [{"content": "x"}],
            [TURN, "hi"],
            [TURN, None],
            [TURN, []],
            [5, TURN],
        ),
        *(
            [{"role": 5, "content": "x"}],
            [{"role": "user", "content": ["a"]}],
            [{"role": "u", "content": None}],
            [[TURN]],
        ),
        [{"role": "user", "content": [{"type": "text"}]}],
    ],
    "functions": [[{"name": "a"}], [{"name": "a", "code": "x"}], [{"name": 5, "code": "x"}], ["a"], [{"code": "x"}]],
    "tools": [[{"name": "a"}], [{"type": "function", "function": {"name": "a"}}], [{"a": 1}, 5]],
    "response_format": [{"type": kind} for kind in ("json_object", "json_schema", "x", 5, None)],
}
# Not compared: an object in place of an array (Cabidela quotes its keys), and enum words that are no short words.


def random_body(draw: random.Random) -> dict[str, Any]:
    first = draw.sample(["prompt", "messages"], draw.randint(0, 1))
    return {name: random_value(name, draw) for name in [*first, *draw.sample(NAMES, draw.randint(0, 4))]}


def random_value(name: str, draw: random.Random) -> Any:
    return draw.choice(LIKELY[name] if name in LIKELY and draw.random() < 0.65 else ANYTHING)


def our_complaint(body: dict[str, Any]) -> str | None:
    try:
        validate(RUN_INPUT_SCHEMA, body)
    except InputError as error:
        return str(error)
    return None


def test_every_complaint_is_the_reference_validators_own() -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules" / "@cloudflare" / "cabidela").is_dir():
        pytest.skip("@cloudflare/cabidela is absent: `make test` installs it where there is npm")
    draw = random.Random(7)
    bodies = [random_body(draw) for _ in range(NUM_BODIES)]
    given = json.dumps({"schema": RUN_INPUT_SCHEMA, "bodies": bodies})
    command = ["node", "cabidela.mjs"]
    done = subprocess.run(command, cwd=FOLDER, input=given, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert [(body, our_complaint(body)) for body in bodies] == list(zip(bodies, found, strict=True))
    assert 100 < found.count(None) < NUM_BODIES - 100, "both kinds of bodies are among them"


def test_the_shortcut_gives_what_the_long_way_gives() -> None:
    draw = random.Random(11)
    plain = [{}, {"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}]
    bodies = [{**draw.choice(plain), **random_body(draw)} for _ in range(3000)]
    known = [body for body in bodies if SHORTCUT.knows(body)]
    for body in known:
        fields = validate(RUN_INPUT_SCHEMA, body)
        if "temperature" not in body:
            del fields["temperature"]
        assert parse_input(body) == msgspec.convert(fields, RunInput, strict=False)
    assert len(known) > 100
