"""What the package ships: small, in the ordinary format, from permissive sources."""

from pathlib import Path

from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.guard.prompt import FrameStore
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.tokenizer import Tokenizer
from training.sources import SOURCES


def test_the_embedded_guard_is_an_awq_checkpoint_of_at_most_20_mb() -> None:
    assert sum(file.stat().st_size for file in Path(EMBEDDED_FOLDER).iterdir()) <= 20_000_000
    assert Checkpoint.open(EMBEDDED_FOLDER).config.quantization is not None


def test_its_template_splices_exactly_and_its_policy_has_six_codes() -> None:
    frames = FrameStore(Tokenizer.load(EMBEDDED_FOLDER))
    assert frames.default_policy.codes == ("O1", "O2", "O3", "O4", "O5", "O6")
    assert frames.frame("assistant").tail


def test_no_source_is_share_alike() -> None:
    assert all("SA" not in source.licence.split() and "BY-SA" not in source.licence for source in SOURCES)
    assert all("sharealike" not in source.file for source in SOURCES)
