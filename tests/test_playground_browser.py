"""The playground in a real Chromium: the tests themselves are JavaScript (tests/node/playground), run by node.

Three servers on loopback: one open and one with a key, both with the embedded guard, and one that loads until told to go on.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served import served, serving

from guardhouse.config import Settings
from guardhouse.guard.guard import EMBEDDED_FOLDER, Guard
from guardhouse.server.app import create_app

NODE_FOLDER = Path(__file__).parent / "node"


def loading_app(release: Path, cache_dir: Path) -> object:
    """An application that stays at 25 % until the file `release` appears."""
    settings = Settings(threads=1, cache_dir=cache_dir)

    def load_guard(progress: Callable[[int, int], None]) -> Guard:
        progress(1, 4)
        deadline = time.monotonic() + 900  # tests before the one that releases it may be slow
        while not release.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Guard.load(settings=settings)

    return create_app(load_guard, settings)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the JavaScript needs to know."""
    chromium, node = shutil.which("chromium"), shutil.which("node")
    if node is None or not (NODE_FOLDER / "node_modules").is_dir():
        pytest.skip("node, or the packages that `make test` installs into tests/node, are absent")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    folder = tmp_path_factory.mktemp("playground")
    cache, release = folder / "cache", folder / "release"
    with (
        served(EMBEDDED_FOLDER, cache_dir=cache) as open_server,
        served(EMBEDDED_FOLDER, cache_dir=cache, api_keys=("sesame",)) as keyed_server,
        serving(loading_app(release, cache)) as loading_url,
    ):
        yield {
            **os.environ,
            "CHROMIUM": chromium,
            "PYTHON": sys.executable,
            "GUARDHOUSE_URL": open_server.url,
            "GUARDHOUSE_KEYED_URL": keyed_server.url,
            "GUARDHOUSE_LOADING_URL": loading_url,
            "GUARDHOUSE_RELEASE": str(release),
        }


@pytest.mark.parametrize("name", ["modules", "page", "states", "access"])
def test_the_playground(environment: dict[str, str], name: str) -> None:
    run = subprocess.run(
        ["node", "--test", "--test-reporter=spec", f"playground/{name}.test.js"],
        cwd=NODE_FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
