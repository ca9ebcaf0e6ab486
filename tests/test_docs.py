"""The generated pages are what the code says now."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKAGE = DOCS.parent / "guardhouse"


def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "http.md"])
def test_a_generated_page_is_up_to_date(name: str) -> None:
    expected = generator().documents()[name]
    assert (DOCS / name).read_text(encoding="utf-8") == expected, "run `make docs`"


def test_every_verb_and_every_route_is_described() -> None:
    pages = generator().documents()
    for verb in ("check", "chat", "serve", "pull", "models", "doctor"):
        assert f"## guardhouse {verb}" in pages["cli.md"]
    for route in ("POST /v1/moderations", "POST /v1/chat/completions", "POST /v1/check", "GET /health"):
        assert f"### {route}" in pages["http.md"]


def test_every_choice_of_the_compatibility_page_lives_where_it_says() -> None:
    """The last column names files under guardhouse/ and, behind a comma, a name in the file before."""
    rows = [
        line for line in (DOCS / "compatibility.md").read_text().splitlines() if line.startswith("| ") and "`" in line
    ]
    assert len(rows) > 20
    for row in rows:
        text = ""
        for found in re.findall(r"`([^`]+)`", row.rstrip(" |").rpartition("|")[2]):
            if found.endswith(".py"):
                text = (PACKAGE / found).read_text()
            else:
                assert found in text, f"{found} is not there: {row}"
