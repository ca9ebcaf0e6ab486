"""Real JavaScript clients against a real server: one test here per file of tests/node, run by Node's own runner.

The official npm SDK, OpenAI's, the AI SDK with its Workers AI provider, workerd and miniflare with examples/worker,
wrangler.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from adapters import write_adapter

from guardhouse.guard.guard import EMBEDDED_FOLDER

FOLDER = Path(__file__).resolve().parents[1] / "node"
FILES = sorted(path.name for path in FOLDER.glob("*.test.mjs"))


def test_there_are_clients_to_test() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("file", FILES)
def test_client(embedded: str, tmp_path: Path, file: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip("tests/node/node_modules is absent: `make test` installs it where there is npm")
    adapter = write_adapter(tmp_path / "adapter", EMBEDDED_FOLDER, lora_alpha=1)
    environment = {**os.environ, "BASE_URL": embedded, "ADAPTER": str(adapter), "HOME": str(tmp_path), "NO_COLOR": "1"}
    command = ["node", "--test", "--test-reporter=tap", file]
    done = subprocess.run(
        command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout
