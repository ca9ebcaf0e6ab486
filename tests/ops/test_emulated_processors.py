"""The tiles with VNNI, as CMakeLists.txt compiles them, on emulated processors; and which kernels each of them takes.

Bochs emulates whole machines. There is no system on them: bare/boot.S starts the program from the disk, which takes
three seconds (Linux did not get that far: docs/log.md). Where Bochs is missing they skip: apt-get install bochs bochs-term.
"""

import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DISK = "cylinders=20, heads=16, spt=63"
DISK_BYTES = 20 * 16 * 63 * 512
MACHINE = """\
display_library: term
megs: 32
romimage: file=$BXSHARE/BIOS-bochs-latest
vgaromimage: file=$BXSHARE/VGABIOS-lgpl-latest
cpu: model={model}, ips=50000000, reset_on_triple_fault=0
ata0-master: type=disk, path=disk.img, mode=flat, {disk}
boot: disk
com1: enabled=1, mode=file, dev=printed.txt
clock: sync=none
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
log: bochs.log
panic: action=fatal
"""


@pytest.fixture(scope="module")
def tile_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tile of each instruction set, compiled by the project's own build."""
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    missing = [name for name in ("bochs", "script", "objcopy", "cc") if shutil.which(name) is None]
    if missing or cmake is None:
        pytest.skip(f"not installed: {', '.join(missing) or 'cmake'} (Debian: bochs bochs-term binutils gcc)")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("no compiler for x86")
    build = tmp_path_factory.mktemp("build")
    said = subprocess.run([cmake, "-S", str(ROOT), "-B", str(build)], check=True, capture_output=True, text=True).stdout
    if "cannot build the" in said:
        pytest.skip("this compiler knows no VNNI")
    targets = {isa: f"kernels_{isa}" for isa in ("avxvnni", "avx512")}
    subprocess.run([cmake, "--build", str(build), "--target", *targets.values()], check=True, stdout=subprocess.DEVNULL)
    folders = {isa: build / "CMakeFiles" / f"{target}.dir" for isa, target in targets.items()}
    return {isa: folder / "native" / "kernels" / "w4a8_vnni.c.o" for isa, folder in folders.items()}


def build_disk(isa: str, tile: Path, folder: Path) -> None:
    """disk.img: boot sector, runtime.c, tiles.c for one tile, and the portable one."""
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-mno-red-zone", "-fno-pie", "-fno-stack-protector"]
    flags += [f"-I{ROOT / 'native'}", f"-DTILE=gh_w4a8_{isa}", f"-DTILE_ISA=GH_ISA_{isa.upper()}"]
    sources = {
        HERE / "bare" / "boot.S": [],
        HERE / "bare" / "system.c": [],
        HERE / "tiles.c": [],
        ROOT / "native" / "runtime.c": ["-DGH_WITH_AVX2", "-DGH_WITH_AVXVNNI", "-DGH_WITH_AVX512"],
        ROOT / "native" / "kernels" / "w4a8_portable.c": ["-mfma"],  # fmaf as an instruction
    }
    objects = [str(tile)]
    for source, own_flags in sources.items():
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run(["cc", *flags, *own_flags, "-c", str(source), "-o", objects[-1]], check=True)
    layout = [f"-Wl,-T,{HERE / 'bare' / 'image.ld'}", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
    program, disk = folder / "program", folder / "disk.img"
    subprocess.run(
        ["cc", "-nostdlib", "-static", "-no-pie", *layout, *objects, "-lgcc", "-o", str(program)], check=True
    )
    subprocess.run(["objcopy", "-O", "binary", str(program), str(disk)], check=True)
    with disk.open("r+b") as file:
        file.truncate(DISK_BYTES)


@cache
def known_models() -> set[str]:
    return set(subprocess.run(["bochs", "--help", "cpu"], capture_output=True, text=True, check=False).stderr.split())


@pytest.mark.parametrize(
    ("model", "isa", "supported"),
    [
        ("corei7_sandy_bridge_2600k", "avx512", "portable"),
        ("corei7_haswell_4770", "avxvnni", "portable avx2"),
        ("corei7_icelake_u", "avx512", "portable avx2 avx512"),
        ("arrow_lake", "avxvnni", "portable avx2 avxvnni"),
        ("sapphire_rapids", "avx512", "portable avx2 avxvnni avx512"),
    ],
)
def test_an_emulated_processor_takes_its_kernels_and_gets_the_portable_bits(
    model: str, isa: str, supported: str, tile_objects: dict[str, Path], tmp_path: Path
) -> None:
    if model not in known_models():
        pytest.skip(f"this bochs does not know {model}; 3.0 does")
    build_disk(isa, tile_objects[isa], tmp_path)
    (tmp_path / "machine").write_text(MACHINE.format(model=model, disk=DISK), encoding="utf-8")
    (tmp_path / "commands").write_text("c\nquit\n", encoding="utf-8")  # Debian's bochs is built with its debugger
    bochs = ["script", "-qec", "TERM=xterm bochs -q -f machine -rc commands", "/dev/null"]  # its display is a terminal
    quiet = subprocess.DEVNULL
    subprocess.run(bochs, cwd=tmp_path, stdin=quiet, stdout=quiet, timeout=120, check=False, start_new_session=True)
    expected = [supported, "864 tiles, 0 differ"] if isa in supported.split() else [supported]
    assert (tmp_path / "printed.txt").read_text(encoding="utf-8").splitlines() == expected
