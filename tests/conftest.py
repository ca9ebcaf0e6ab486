"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels run on the CPU


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data beside the repository (never part of it); tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data folder beside the repository (../shared/data) is absent")
    return folder
