"""The JavaScript client's own tests, run by Node against a real server."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from served import served, write_guard_checkpoint

CLIENT = Path(__file__).resolve().parents[1] / "clients" / "js"


def test_the_javascript_client_passes_its_tests(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with served(write_guard_checkpoint(tmp_path / "random-guard"), threshold=1.0) as server:
        command = ["node", "--test", "--test-reporter=tap", "test/"]
        environment = {**os.environ, "BASE_URL": server.url}
        done = subprocess.run(
            command, cwd=CLIENT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
