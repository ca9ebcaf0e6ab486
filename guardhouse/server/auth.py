"""Who may call: bearer keys, kept as digests only.

Knows: keys (for as long as it takes to hash them), request headers, which addresses are loopback.
Never knows: routes, bodies.
"""

import hashlib
import hmac
import ipaddress
from pathlib import Path

from starlette.datastructures import Headers

from guardhouse.config import Settings
from guardhouse.errors import ConfigError


class KeyRing:
    """The keys that open this server. Without any, every caller is let in."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    @classmethod
    def from_settings(cls, settings: Settings) -> "KeyRing":
        from_file = _read_keys(settings.api_key_file) if settings.api_key_file else ()
        return cls(settings.api_keys + from_file)

    def __len__(self) -> int:
        return len(self._digests)

    def accepts(self, key: str) -> bool:
        """Every digest is compared in constant time, whether or not an earlier one fitted."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def presented_key(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer …` or `X-Auth-Key`; None if there is none.

    Raises ValueError where an Authorization header is there but is no bearer's.
    """
    authorization = headers.get("authorization")
    if authorization is None:
        return headers.get("x-auth-key")
    scheme, _, key = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip() or " " in key.strip():
        raise ValueError("no bearer key")
    return key.strip()


def refuse_open_server(settings: Settings, keys: KeyRing) -> None:
    """Raise ConfigError where anyone on the network could call without a key."""
    if len(keys) or settings.insecure or _is_loopback(settings.host):
        return
    raise ConfigError(
        f"{settings.host} is open to other machines: set GUARDHOUSE_API_KEYS or --api-key-file, or say --insecure"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: what it resolves to can change, so it counts as reachable
        return False


def _read_keys(file: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"cannot read the API key file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the API key file {file} is not UTF-8 text") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:  # whoever names a file wants the door shut: an empty one must not open it
        raise ConfigError(f"the API key file {file} holds no key")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
