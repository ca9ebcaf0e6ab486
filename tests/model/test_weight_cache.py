"""What model/weight_cache.py promises: packed once, mapped ever after, and never trusted when damaged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guardhouse.model.weight_cache import MANIFEST, CacheKey, Group, load_or_pack, open_cache
from guardhouse.ops.table import PackedLinear

KEY = CacheKey("f1ngerpr1nt", "cpu", "1")
NUM_GROUPS = 3


def make_group(index: int) -> Group:
    generator = np.random.default_rng(index)
    arrays = {"codes": generator.integers(0, 255, (8, 16), np.uint8), "scales": generator.random((2, 8), np.float32)}
    return {"qkv": PackedLinear("int4", 32, 8, 16, arrays), "head": PackedLinear("dense", 4, 2, 0, {"w": np.eye(4)})}


class CountingPackers:
    """Packers that note which groups they were asked for."""

    def __init__(self) -> None:
        self.packed: list[int] = []

    def __call__(self) -> list[Callable[[], Group]]:
        return [lambda index=index: self._pack(index) for index in range(NUM_GROUPS)]  # type: ignore[misc]

    def _pack(self, index: int) -> Group:
        self.packed.append(index)
        return make_group(index)


def assert_right(groups: list[Group]) -> None:
    assert len(groups) == NUM_GROUPS
    for index, group in enumerate(groups):
        expected = make_group(index)
        assert group.keys() == expected.keys()
        for name, linear in group.items():
            assert linear.arrays.keys() == expected[name].arrays.keys()
            assert all(np.array_equal(array, expected[name].arrays[part]) for part, array in linear.arrays.items())
            assert replace(linear, arrays={}) == replace(expected[name], arrays={})


def test_the_second_start_packs_nothing(tmp_path: Path) -> None:
    packers = CountingPackers()
    assert_right(load_or_pack(packers(), tmp_path, KEY))
    assert_right(load_or_pack(packers(), tmp_path, KEY))
    assert packers.packed == [0, 1, 2]


def test_cached_arrays_are_mapped_aligned_and_read_only(tmp_path: Path) -> None:
    groups = load_or_pack(CountingPackers()(), tmp_path, KEY)
    arrays = [array for group in groups for linear in group.values() for array in linear.arrays.values()]
    for array in arrays:
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0  # a cache line: kernels may load whole vectors


def test_without_a_cache_folder_nothing_is_written(tmp_path: Path) -> None:
    packers = CountingPackers()
    assert_right(load_or_pack(packers(), None, KEY))
    assert_right(load_or_pack(packers(), None, KEY))
    assert packers.packed == [0, 1, 2, 0, 1, 2]
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_after_every_group(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load_or_pack(CountingPackers()(), tmp_path, KEY, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    load_or_pack(CountingPackers()(), tmp_path, KEY, lambda done, total: told.append((done, total)))
    assert told[3:] == [(3, 3)]


def remove_array(folder: Path) -> None:
    (folder / "0001.qkv.codes.npy").unlink()


def truncate_array(folder: Path) -> None:
    os.truncate(folder / "0001.qkv.codes.npy", 200)


def replace_array_by_another_of_its_size(folder: Path) -> None:
    path = folder / "0001.qkv.codes.npy"
    np.save(path, np.zeros((16, 8), np.uint8))


def replace_array_by_a_pickle(folder: Path) -> None:
    path = folder / "0001.qkv.codes.npy"
    size = path.stat().st_size
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    os.truncate(path, size)


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 30)


def forget_a_group(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["groups"][-1]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def raise_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": manifest["format"] + 1}))


def spoil_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 1, "groups": [3]}')


@pytest.mark.parametrize(
    "damage",
    [
        remove_array,
        truncate_array,
        replace_array_by_another_of_its_size,
        replace_array_by_a_pickle,
        remove_manifest,
        cut_manifest,
        forget_a_group,
        raise_format,
        spoil_manifest,
    ],
)
def test_a_damaged_cache_is_packed_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    load_or_pack(CountingPackers()(), tmp_path, KEY)
    damage(tmp_path / KEY.folder_name)
    packers = CountingPackers()
    assert_right(load_or_pack(packers(), tmp_path, KEY))
    assert packers.packed == [0, 1, 2]
    assert open_cache(tmp_path / KEY.folder_name, NUM_GROUPS) is not None


def test_an_interrupted_packing_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop() -> Group:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_pack([lambda: make_group(0), stop], tmp_path, KEY)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_cache_folder_is_warned_about_and_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.warns(RuntimeWarning, match="cannot cache packed weights"):
        assert_right(load_or_pack(CountingPackers()(), blocked, KEY))


def test_a_new_version_replaces_the_old_one(tmp_path: Path) -> None:
    other_backend, other_weights = CacheKey("f1ngerpr1nt", "reference", "1"), CacheKey("another", "cpu", "1")
    for key in (KEY, other_backend, other_weights):
        load_or_pack(CountingPackers()(), tmp_path, key)
    newer = CacheKey("f1ngerpr1nt", "cpu", "2")
    load_or_pack(CountingPackers()(), tmp_path, newer)
    assert {path.name for path in tmp_path.iterdir()} == {
        key.folder_name for key in (newer, other_backend, other_weights)
    }


def test_only_abandoned_partial_folders_are_deleted(tmp_path: Path) -> None:
    abandoned = tmp_path / f"{KEY.folder_name}.partial-1-1"
    busy = tmp_path / f"{KEY.folder_name}.partial-2-2"
    for folder in (abandoned, busy):
        folder.mkdir()
    os.utime(abandoned, (0, 0))
    load_or_pack(CountingPackers()(), tmp_path, KEY)
    assert not abandoned.exists()
    assert busy.exists()


def test_whoever_finishes_second_uses_the_first_ones_cache(tmp_path: Path) -> None:
    def finish_first() -> Group:
        load_or_pack([lambda: make_group(0)], tmp_path, KEY)  # another process, in effect
        return make_group(0)

    groups = load_or_pack([finish_first], tmp_path, KEY)
    assert np.array_equal(groups[0]["qkv"].arrays["codes"], make_group(0)["qkv"].arrays["codes"])
    assert [path.name for path in tmp_path.iterdir()] == [KEY.folder_name]


MEMORY_PROBE = """
import resource, sys
from pathlib import Path
import numpy as np
from guardhouse.model.weight_cache import CacheKey, load_or_pack
from guardhouse.ops.table import PackedLinear

def pack():
    return {"w": PackedLinear("dense", 1024, 4096, 0, {"w": np.ones((4096, 1024), np.float32)})}  # 16 MiB

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
groups = load_or_pack([pack] * 12, Path(sys.argv[1]), CacheKey("a", "cpu", "1"))
assert len(groups) == 12
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
def test_packing_holds_about_one_group_in_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY_PROBE, str(tmp_path)]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout)
    assert grown_kib < 3 * 16 * 1024  # of 12 groups with 16 MiB each: one being packed, one being dropped, small change


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(root)}
