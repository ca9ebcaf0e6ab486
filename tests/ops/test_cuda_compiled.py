"""Every kernel of a 7B step, compiled for an H100 without one: the interpreter knows no registers and no shared memory."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("torch", reason="torch is not installed")

TESTS = Path(__file__).parents[1]
CAPABILITY = "90"
SHARED_BYTES = (
    227 * 1024
)  # that a block of an H100 or H200 can have; CUDA C++ programming guide, table of technical data
KERNELS = {
    "attention": {"_attend_item", "_attend_walk", "_merge_spans"},
    "dense": {"_multiply"},
    "rows": {"_rms_norm", "_rope_and_store", "_silu_mul"},
    "activations": {"_quantize"},
    "w4a8": {"_multiply", "_add_parts"},
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton brings its ptxas for x86-64")
def test_every_kernel_compiles_fits_an_h100_and_spills_no_register_where_it_multiplies() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(TESTS / "offline_cuda.py"), CAPABILITY]
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    names: dict[str, set[str]] = {}
    for kernel in found:
        names.setdefault(kernel["file"], set()).add(kernel["kernel"])
    assert names == KERNELS
    for kernel in found:
        assert kernel["spills_in_products"] == 0, kernel
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        if kernel["kernel"] in {"_multiply", "_attend_item", "_attend_walk"}:
            assert kernel["products"] > 0, f"no tensor core is used: {kernel}"
