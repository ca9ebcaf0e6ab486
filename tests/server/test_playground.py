"""The playground's files: what fences them in, how they are cached, and that they hold together."""

import re
from pathlib import Path

import pytest
import requests
from served import RUN, Served, served, write_guard_checkpoint

from guardhouse.server.playground import MEDIA_TYPES, STATIC

FILES = sorted(path for path in STATIC.iterdir() if path.is_file())
MODULES = [path for path in FILES if path.suffix == ".js"]
LOCAL_IMPORT = re.compile(r'from "\./([\w.-]+)"')


def get(server: Served, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=headers, timeout=10)


@pytest.mark.parametrize("path", ["/", "/playground"])
def test_the_page_opens_and_may_load_nothing_from_elsewhere(server: Served, path: str) -> None:
    page = get(server, path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_file_is_served_with_its_type_and_kept_by_its_tag(server: Served, file: Path) -> None:
    first = get(server, f"/playground/{file.name}")
    assert first.content == file.read_bytes()
    assert first.headers["content-type"] == MEDIA_TYPES[file.suffix]
    again = get(server, f"/playground/{file.name}", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(server, f"/playground/{file.name}", **{"If-None-Match": '"older"'}).status_code == 200


def test_no_script_or_style_stands_in_the_markup() -> None:
    markup = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", markup)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", markup))


def test_whatever_the_page_refers_to_is_there() -> None:
    names = {path.name for path in FILES}
    markup = (STATIC / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="playground/([\w.-]+)"', markup)) <= names
    for module in MODULES:
        assert set(LOCAL_IMPORT.findall(module.read_text())) <= names, module.name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_opens_with_its_contract_and_stays_short(module: Path) -> None:
    text = module.read_text()
    assert text.startswith("/* ")
    assert all(words in text.partition("*/")[0] for words in ("Knows:", "Never knows:"))
    assert len(text.splitlines()) <= 300
    assert "innerHTML" not in text


def test_an_unknown_file_is_an_unknown_route(server: Served) -> None:
    for path in ("/playground/", "/playground/nothing.js", "/playground/../app.py"):
        assert get(server, path).status_code in (400, 404)


def test_the_page_opens_without_a_key_and_the_api_does_not(tmp_path: Path) -> None:
    with served(write_guard_checkpoint(tmp_path / "guard"), api_keys=("sesame",)) as server:
        assert get(server, "/").status_code == 200
        assert get(server, "/playground/main.js").status_code == 200
        assert server.post({"messages": []}, path="/v1/render").status_code == 401
        assert server.post({"prompt": "hi"}, path=RUN).status_code == 401
