"""The generated pages are what the code says now."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


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
