"""Keys: which open the door, and when there must be one."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from guardhouse.config import Settings
from guardhouse.errors import ConfigError
from guardhouse.server.auth import KeyRing, presented_key, refuse_open_server


def key_file(folder: Path, text: str) -> Path:
    file = folder / "keys"
    file.write_text(text)
    return file


def test_keys_come_from_settings_and_file(tmp_path: Path) -> None:
    file = key_file(tmp_path, "# for the batch job\nfrom-file\n\n  spaced  \n")
    ring = KeyRing.from_settings(Settings(api_keys=("a",), api_key_file=file))
    assert [ring.accepts(key) for key in ("a", "from-file", "spaced", "b", "", "# for the batch job")] == [
        *[True] * 3,
        *[False] * 3,
    ]


def test_a_key_ring_holds_no_key_in_clear() -> None:
    assert "sesame" not in repr(vars(KeyRing(("sesame",))))


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_a_key_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="holds no key"):
        KeyRing.from_settings(Settings(api_key_file=key_file(tmp_path, text)))


def test_a_key_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        KeyRing.from_settings(Settings(api_key_file=tmp_path / "absent"))


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-auth-key": "abc", "x-auth-email": "a@b.c"}, "abc"),
    ],
)
def test_a_key_is_found_in_either_header(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(Headers(headers)) == key


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic abc", "abc", "Bearer a b"])
def test_another_authorization_is_malformed(value: str) -> None:
    with pytest.raises(ValueError, match="no bearer key"):
        presented_key(Headers({"authorization": value}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    refuse_open_server(Settings(host=host), KeyRing(()))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.1.example.org"])
def test_another_address_needs_a_key_or_an_explicit_word(host: str) -> None:
    with pytest.raises(ConfigError, match="open to other machines"):
        refuse_open_server(Settings(host=host), KeyRing(()))
    refuse_open_server(Settings(host=host), KeyRing(("a",)))
    refuse_open_server(Settings(host=host, insecure=True), KeyRing(()))
