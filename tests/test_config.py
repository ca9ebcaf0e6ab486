"""Settings: where they come from, and what is refused."""

from pathlib import Path

import msgspec
import pytest

from guardhouse.config import PREFIX, Settings, load_settings, models_dir, setting_specs
from guardhouse.errors import ConfigError


def toml(folder: Path, text: str) -> Path:
    file = folder / "guardhouse.toml"
    file.write_text(text)
    return file


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1\nmax_queue = 1\nblock_size = 1")
    settings = load_settings({"port": "3"}, {"GUARDHOUSE_PORT": "2", "GUARDHOUSE_MAX_QUEUE": "2"}, file)
    assert (settings.port, settings.max_queue, settings.block_size) == (3, 2, 1)
    assert settings.max_num_seqs == Settings().max_num_seqs


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert load_settings({"port": None}, {"GUARDHOUSE_PORT": "2"}).port == 2


@pytest.mark.parametrize(
    ("flags", "environ", "text", "name"),
    [
        ({"max_num_seq": "8"}, {}, "", "--max-num-seq"),
        ({}, {"GUARDHOUSE_MAX_NUM_SEQ": "8"}, "", "GUARDHOUSE_MAX_NUM_SEQ"),
        ({}, {}, "max_num_seq = 8", "max_num_seq"),
    ],
)
def test_an_unknown_setting_is_refused_by_name(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str], text: str, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"^unknown setting: {name}$"):
        load_settings(flags, environ, toml(tmp_path, text))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("PORT", ""),
        ("THREADS", "0"),
        ("THRESHOLD", "1.5"),
        ("THRESHOLD", "nan"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("REQUEST_TIMEOUT_S", "inf"),
        ("DEVICE", "gpu"),
        ("INSECURE", "perhaps"),
        ("CACHE_DIR", ""),
    ],
)
def test_a_malformed_value_names_its_setting(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{PREFIX}{variable}: "):
        load_settings({}, {PREFIX + variable: text})


def test_no_error_or_repr_tells_an_api_key(tmp_path: Path) -> None:
    secret = "do-not-tell"
    with pytest.raises(ConfigError) as malformed:
        load_settings({}, {}, toml(tmp_path, f'api_keys = {{key = "{secret}"}}'))
    with pytest.raises(ConfigError) as broken:
        load_settings({}, {}, toml(tmp_path, f'api_keys = ["{secret}'))
    settings = load_settings({}, {"GUARDHOUSE_API_KEYS": secret})
    assert settings.api_keys == (secret,)
    assert secret not in f"{malformed.value} {broken.value} {settings!r}"


def test_lists_come_from_commas_or_from_toml(tmp_path: Path) -> None:
    assert load_settings({}, {"GUARDHOUSE_API_KEYS": " a, b ,"}).api_keys == ("a", "b")
    assert load_settings({}, {}, toml(tmp_path, 'api_keys = ["a", "b"]')).api_keys == ("a", "b")


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings({}, {}, toml(tmp_path, "port: 1"))
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings({}, {}, tmp_path / "absent.toml")


def test_the_cache_follows_xdg_and_paths_may_start_at_home(tmp_path: Path) -> None:
    settings = load_settings({}, {"XDG_CACHE_HOME": str(tmp_path)})
    assert settings.cache_dir == tmp_path / "guardhouse"
    assert models_dir(settings) == tmp_path / "guardhouse" / "models"
    assert load_settings({"cache_dir": "~/x"}, {}).cache_dir == Path.home() / "x"


def test_variables_of_others_are_left_alone() -> None:
    assert load_settings({}, {"PORT": "1", "GUARDHOUS_PORT": "1"}).port == Settings().port


def test_every_setting_documents_itself() -> None:
    specs = setting_specs()
    assert [spec.name for spec in specs] == list(Settings.__struct_fields__)
    assert all(spec.help for spec in specs)
    assert {spec.name for spec in specs if spec.is_list} == {"api_keys", "model_aliases"}


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"prt": 1}, Settings)
