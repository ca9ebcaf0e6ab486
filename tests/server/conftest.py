"""One server for all tests of the wire."""

from collections.abc import Iterator

import pytest
from served import Served, command_line_server, served, write_guard_checkpoint


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Never flags anything (threshold 1): whether a text is safe is no question of the protocol."""
    folder = write_guard_checkpoint(tmp_path_factory.mktemp("guard") / "random-guard")
    with served(folder, threshold=1.0) as running:
        yield running


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `guardhouse serve` with the guard that comes with it, as a user starts it."""
    with command_line_server(tmp_path_factory.mktemp("home")) as url:
        yield url
