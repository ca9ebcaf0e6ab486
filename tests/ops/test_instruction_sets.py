"""Every operation gives the same bits with every instruction set, on every processor (digests.c).

ARM's kernels are compiled by the project's own CMakeLists.txt for another machine and run under qemu's emulation. The
tiles with VNNI are compiled here against their intrinsics in plain C (emulated/immintrin.h).
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guardhouse.ops.native import native_library_path

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("digests.c")
ARM_COMPILER, EMULATOR, ARM_ROOT = "aarch64-linux-gnu-gcc", "qemu-aarch64", "/usr/aarch64-linux-gnu"


def build(compiler: str, library: Path, target: Path) -> None:
    options = ["-std=c11", "-O1", f"-I{ROOT / 'native'}", str(SOURCE), str(library), "-lpthread", "-lm"]
    subprocess.run([compiler, *options, f"-Wl,-rpath,{library.parent}", "-o", str(target)], check=True)


def digests(command: list[str]) -> dict[str, str]:
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    return dict(line.split() for line in found.splitlines())


@pytest.fixture(scope="module")
def host_digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    library, compiler = native_library_path(), shutil.which("cc")
    if library is None or compiler is None:
        pytest.skip("no C compiler, or the native kernels were not compiled")
    target = tmp_path_factory.mktemp("host") / "digests"
    build(compiler, library, target)
    return digests([str(target)])


@pytest.mark.parametrize("isa", ["avxvnni", "avx512"])
def test_vnni_tiles_give_the_bits_of_the_portable_one(isa: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    kernels, tile = ROOT / "native" / "kernels", str(tmp_path / "tile.o")
    compile_c = [compiler, "-std=c11", "-O1", "-ffp-contract=off", f"-I{ROOT / 'native'}"]
    emulated = [f"-I{SOURCE.parent / 'emulated'}", f"-DGH_BUILD_{isa.upper()}"]
    subprocess.run([*compile_c, *emulated, "-c", str(kernels / "w4a8_vnni.c"), "-o", tile], check=True)
    sources = [str(SOURCE.with_name("tiles.c")), str(kernels / "w4a8_portable.c"), tile]
    subprocess.run([*compile_c, f"-DTILE=gh_w4a8_{isa}", *sources, "-lm", "-o", str(tmp_path / "tiles")], check=True)
    printed = subprocess.run([tmp_path / "tiles"], capture_output=True, text=True, timeout=60, check=False).stdout
    assert printed == "864 tiles, 0 differ\n"


def test_this_machines_kernels_agree(host_digests: dict[str, str]) -> None:
    assert "portable" in host_digests
    assert len(set(host_digests.values())) == 1


def test_arm_kernels_give_the_bits_of_this_machine(host_digests: dict[str, str], tmp_path: Path) -> None:
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    missing = [name for name in (ARM_COMPILER, EMULATOR) if shutil.which(name) is None]
    if missing or cmake is None:
        pytest.skip(f"not installed: {', '.join(missing) or 'cmake'} (Debian: gcc-aarch64-linux-gnu qemu-user)")
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_C_COMPILER={ARM_COMPILER}"]
    configure = [cmake, "-S", str(ROOT), "-B", str(tmp_path), *target, "-DGUARDHOUSE_WERROR=ON"]
    for command in (configure, [cmake, "--build", str(tmp_path), "--parallel", "2"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    build(ARM_COMPILER, tmp_path / "libguardhouse_native.so", tmp_path / "digests")
    for processor, expected in (("max", {"portable", "neon"}), ("cortex-a72", {"portable"})):  # without dot products
        found = digests([EMULATOR, "-cpu", processor, "-L", ARM_ROOT, str(tmp_path / "digests")])
        assert set(found) == expected
        assert set(found.values()) == set(host_digests.values())
