"""Settings: declared once, read once, refused if unknown. The only reader of the environment.

Knows: names, types, defaults and where a value came from (flag > environment > file > default).
Never knows: what a setting does.

Every field of `Settings` is a flag (`--max-queue`), a variable (`GUARDHOUSE_MAX_QUEUE`), a TOML key (`max_queue`) and
its own documentation (the description beside it).
"""

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from guardhouse.errors import ConfigError

PREFIX = "GUARDHOUSE_"
PositiveInt = Annotated[int, Meta(ge=1)]


def process_environment() -> Mapping[str, str]:
    """The variables of this process: what `load_settings` is given outside of tests."""
    return os.environ


def default_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`$XDG_CACHE_HOME/guardhouse`, else `~/.cache/guardhouse`."""
    base = (os.environ if environ is None else environ).get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "guardhouse"


def default_data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """`$XDG_DATA_HOME/guardhouse`, else `~/.local/share/guardhouse`."""
    base = (os.environ if environ is None else environ).get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "guardhouse"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may choose. Never mutated; a derived value gets its own name.

    >>> Settings(max_queue=8).max_queue
    8
    """

    model: Annotated[
        str, Meta(description="'embedded', a checkpoint folder, or a name fetched with `guardhouse pull`")
    ] = "embedded"
    adapter: Annotated[
        Path | None, Meta(description="LoRA adapter folder, as PEFT saves it, under which every answer is given")
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "reference", "cuda"], Meta(description="what computes; auto takes the fastest there is")
    ] = "auto"
    threads: Annotated[PositiveInt | None, Meta(description="CPU threads [default: one per core]")] = None
    host: Annotated[str, Meta(description="address to listen on; other than loopback needs API keys")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one")] = 8787
    api_keys: Annotated[tuple[str, ...], Meta(description="bearer keys, separated by commas; better a variable")] = ()
    api_key_file: Annotated[Path | None, Meta(description="file with one bearer key per line")] = None
    insecure: Annotated[bool, Meta(description="listen beyond loopback without API keys")] = False
    model_aliases: Annotated[
        tuple[str, ...], Meta(description="further names under which the model answers, separated by commas")
    ] = ("@hf/thebloke/llamaguard-7b-awq",)
    threshold: Annotated[float, Meta(ge=0, le=1, description="score from which a text is unsafe")] = 0.5
    max_model_len: Annotated[PositiveInt | None, Meta(description="window in tokens [default: the checkpoint's]")] = (
        None
    )
    max_num_seqs: Annotated[int, Meta(ge=1, description="sequences that run at once")] = 64
    max_num_batched_tokens: Annotated[
        PositiveInt | None, Meta(description="tokens computed per step at most [default: 512, on a GPU 2048]")
    ] = None
    target_step_s: Annotated[
        float,
        Meta(gt=0, description="seconds per step: what a short text waits behind a long one; less is less throughput"),
    ] = 1.0
    block_size: Annotated[int, Meta(ge=1, description="tokens per block of the KV cache")] = 16
    kv_cache_mib: Annotated[PositiveInt | None, Meta(description="size of the KV cache [default: chosen to fit]")] = (
        None
    )
    max_queue: Annotated[int, Meta(ge=1, description="requests that may wait; more are answered 429")] = 256
    keep_alive_s: Annotated[
        float, Meta(gt=0, le=3600, description="seconds of silence after which a stream gets a comment line")
    ] = 5.0
    request_timeout_s: Annotated[float, Meta(gt=0, le=86400, description="seconds until a request is answered 408")] = (
        120.0
    )
    cache_dir: Annotated[
        Path, Meta(description="packed weights, pinned prefixes and pulled models [default: ~/.cache/guardhouse]")
    ] = msgspec.field(default_factory=default_cache_dir)
    data_dir: Annotated[
        Path,
        Meta(description="what must survive a restart: adapters, stored jobs [default: ~/.local/share/guardhouse]"),
    ] = msgspec.field(default_factory=default_data_dir)
    max_loras: Annotated[int, Meta(ge=0, description="LoRA adapters in memory at once; 0 turns them off")] = 8
    job_retention_s: Annotated[float, Meta(gt=0, description="seconds for which a stored job's results are kept")] = (
        86400.0
    )
    job_queue_mib: Annotated[PositiveInt, Meta(description="stored requests that may wait; more are answered 429")] = (
        1024
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe lines to log; never any text")
    ] = "info"

    def __repr__(self) -> str:
        """Without the API keys: a repr ends up in logs."""
        shown = ((name, getattr(self, name)) for name in self.__struct_fields__ if name != "api_keys")
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown)}, num_api_keys={len(self.api_keys)})"


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One field of `Settings`, as flags and documentation need it."""

    name: str
    type: Any  # the annotation with its bounds
    default: object  # None also where the default is computed
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def is_list(self) -> bool:
        return str(self.type).find("tuple[") >= 0


def setting_specs() -> tuple[SettingSpec, ...]:
    """Every setting in order of declaration."""
    hints = get_type_hints(Settings, include_extras=True)
    return tuple(
        SettingSpec(
            field.name,
            hints[field.name],
            None if field.default is msgspec.NODEFAULT else field.default,
            next(meta.description or "" for meta in reversed(get_args(hints[field.name])) if isinstance(meta, Meta)),
        )
        for field in msgspec.structs.fields(Settings)
    )


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Merge flags (None: not given) over GUARDHOUSE_* variables over a TOML file over the defaults.

    >>> load_settings({"port": "9000"}, {"GUARDHOUSE_PORT": "8000", "GUARDHOUSE_MAX_QUEUE": "4"}).port
    9000
    """
    specs = {spec.name: spec for spec in setting_specs()}
    values: dict[str, object] = {"cache_dir": default_cache_dir(environ), "data_dir": default_data_dir(environ)}
    for source, name, value in _given_values(flags, environ, file):
        if name not in specs:
            raise ConfigError(f"unknown setting: {source}")
        values[name] = _convert(specs[name], source, value)
    return Settings(**values)  # type: ignore[arg-type]  # each value was converted to its field's type


def _given_values(
    flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None
) -> Iterator[tuple[str, str, object]]:
    """(name as the user wrote it, field name, value), the weakest source first."""
    for key, value in _read_toml(file).items():
        yield key, key, value
    for variable, text in environ.items():
        if variable.startswith(PREFIX):
            yield variable, variable.removeprefix(PREFIX).lower(), text
    for name, value in flags.items():
        if value is not None:
            yield "--" + name.replace("_", "-"), name, value


def _read_toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:  # bad TOML or bad UTF-8; tomllib's text may quote a secret, so it stays out
        raise ConfigError(f"{file} is not valid TOML") from error


def _convert(spec: SettingSpec, source: str, value: object) -> object:
    if spec.is_list and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, spec.type, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at `$")[0]  # msgspec names types and bounds, and values of enumerations only
        raise ConfigError(f"{source}: {reason}") from error


def _decode_path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str) or not value:
        raise ValueError("Expected a path")
    return Path(value).expanduser()


def models_dir(settings: Settings) -> Path:
    """Where `guardhouse pull` puts checkpoints: `<models_dir>/<owner>/<name>`."""
    return settings.cache_dir / "models"
