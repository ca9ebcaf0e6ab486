"""What `import guardhouse` costs."""

import json
import subprocess
import sys

import guardhouse

HEAVY = {"torch", "rich", "huggingface_hub", "matplotlib", "transformers", "triton", "pyarrow", "ray"}


def loaded_modules(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    modules = loaded_modules("import guardhouse; guardhouse.Guard, guardhouse.Policy, guardhouse.Verdict")
    assert "guardhouse" in modules
    assert not modules & HEAVY


def test_every_public_name_is_there() -> None:
    assert all(getattr(guardhouse, name) is not None for name in guardhouse.__all__)
    assert set(guardhouse.__all__) <= set(dir(guardhouse))


def test_importing_the_package_alone_loads_no_arrays() -> None:
    assert not loaded_modules("import guardhouse") & (HEAVY | {"numpy", "jinja2", "msgspec"})


def test_importing_the_server_and_the_cli_loads_nothing_heavy() -> None:
    assert not loaded_modules("import guardhouse.cli, guardhouse.server.app") & HEAVY


def test_the_http_client_loads_only_when_it_is_asked_for() -> None:
    assert "httpx2" not in loaded_modules("import guardhouse; guardhouse.Guard")
    assert "httpx2" in loaded_modules("import guardhouse; guardhouse.Client")
