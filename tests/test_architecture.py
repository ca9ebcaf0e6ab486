"""The tree is the architecture: every import of the package points to the right, and leaves import nothing of ours."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "guardhouse"
LAYERS = [
    "cli",
    "server gateway bulk evaluation quantization hub doctor client upstream",
    "guard",
    "engine",
    "model",
    "ops",
    "config tables",
    "errors",
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    package = ("guardhouse", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, node.module) if node.module else base)
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_right(path: Path) -> None:
    mine = layer_of(path)
    if mine == "__init__":
        return  # the public face may name anything
    assert mine in RANK, f"{mine} is in no layer: give it a place in LAYERS and in docs/architecture.md"
    for module in imported_modules(path):
        parts = module.split(".")
        assert parts[0] not in {"tests", "training", "benchmarks"}, f"{path} imports {module}"
        if parts[0] == "guardhouse" and len(parts) > 1 and parts[1] != mine:
            assert parts[1] in RANK, f"{path} imports {module}, which is in no layer"
            assert RANK[parts[1]] > RANK[mine], f"{path}: {mine} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_open_with_their_contract_and_stay_short(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is for"
    assert text.count("\n") <= 400, f"{path} has outgrown one responsibility"


def test_only_config_reads_the_environment() -> None:
    for path in FILES:
        if layer_of(path) != "config":
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert not names & {"environ", "getenv"}, f"{path} reads the environment"
