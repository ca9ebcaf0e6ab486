"""What does not fit a GPU's memory is refused in words; what it lacks is named. Both with stand-ins for the device."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from guardhouse import doctor, ops  # noqa: E402
from guardhouse.config import Settings  # noqa: E402
from guardhouse.errors import BackendError, ConfigError  # noqa: E402
from guardhouse.guard.sizing import engine_config, largest_step  # noqa: E402
from guardhouse.model.checkpoint import Checkpoint  # noqa: E402
from guardhouse.model.llama import load_llama  # noqa: E402
from guardhouse.ops.cuda import CudaOps, require_device  # noqa: E402
from guardhouse.ops.gpu.memory import SLACK_BYTES, step_bytes  # noqa: E402
from guardhouse.ops.reference import ReferenceOps  # noqa: E402
from guardhouse.ops.table import DenseWeight, HeadLayout, StepSize  # noqa: E402

GIB = 1 << 30
SEVEN_B = StepSize(512, 128, 4096, HeadLayout(32, 32, 128), 4096, 11008, 32000)


def ops_with(free: int, total: int = 24 * GIB) -> CudaOps:
    return CudaOps("cpu", memory=lambda: (free, total))


def test_weights_that_do_not_fit_are_refused_with_what_is_missing() -> None:
    free = [3 << 20, 1 << 20]
    backend = CudaOps("cpu", memory=lambda: (free[0], 24 * GIB))
    weight = backend.pack_dense(DenseWeight(np.zeros((1024, 1024), np.float16)))
    backend.place(weight)
    free.pop(0)
    with pytest.raises(BackendError, match=r"2 MiB of them are there, 2 MiB more are needed, .* 24576 MiB only 1 MiB"):
        backend.place(weight)


def test_a_model_that_does_not_fit_is_refused_while_it_is_loaded(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path))
    with pytest.raises(BackendError, match="do not fit"):
        load_llama(checkpoint, ops_with(free=1000), None)


def test_the_cache_gets_what_weights_and_steps_leave(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path))
    settings = Settings(max_num_seqs=4, max_num_batched_tokens=64)
    block_bytes = settings.block_size * 2 * 2 * 2 * 16 * 2  # keys and values, layers, heads, head_dim, float16
    window_blocks = 1024 // settings.block_size
    roomy = engine_config(checkpoint.config, settings, 1024, ops_with(20 * GIB))
    assert roomy.num_blocks == 4 * window_blocks, "not more than all sequences can use"
    step = largest_step(checkpoint.config, 4, 64, 1024)
    spent = 20 * GIB - (ops_with(20 * GIB).free_bytes(step) or 0)
    tight = engine_config(checkpoint.config, settings, 1024, ops_with(spent + 100 * block_bytes))
    assert tight.num_blocks == 100
    with pytest.raises(ConfigError, match="lower max_model_len or max_num_batched_tokens"):
        engine_config(checkpoint.config, settings, 1024, ops_with(spent + 90 * block_bytes))
    assert ops_with(SLACK_BYTES).free_bytes(step) == 0


def test_steps_are_larger_on_a_gpu_unless_the_settings_say_how_large(tmp_path: Path) -> None:
    config = Checkpoint.open(write_checkpoint(tmp_path)).config
    on_gpu = engine_config(config, Settings(max_num_seqs=4), 1024, ops_with(20 * GIB))
    on_cpu = engine_config(config, Settings(max_num_seqs=4), 1024, ReferenceOps())
    chosen = engine_config(config, Settings(max_num_seqs=4, max_num_batched_tokens=64), 1024, ops_with(20 * GIB))
    assert (on_gpu.max_num_batched_tokens, on_cpu.max_num_batched_tokens) == (2048, 512)
    assert chosen.max_num_batched_tokens == 64


def test_a_larger_step_is_granted_more() -> None:
    one, two = (step_bytes(SEVEN_B, tokens) for tokens in (512, 1024))
    assert one < two < 2 * one
    assert 200 << 20 < one < 600 << 20, "7B: some hundred MiB"


@pytest.mark.parametrize(
    ("cuda", "is_there", "capability", "message"),
    [
        (None, False, None, "was built without CUDA: install"),
        ("13.0", False, None, "for CUDA 13.0 finds no GPU: see with nvidia-smi"),
        ("13.0", True, (7, 5), "compute capability 7.5 is below 8.0 .Ampere.: use --device cpu"),
    ],
)
def test_what_a_gpu_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, is_there: bool, capability: tuple[int, int] | None, message: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(BackendError, match=message):
        require_device()


@pytest.mark.parametrize(
    ("absent", "message"),
    [(("torch", "triton"), "torch and triton: pip install"), (("triton",), "needs triton"), (("gcc",), "a C compiler")],
)
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], message: str) -> None:
    monkeypatch.setattr(ops, "find_spec", lambda name: None if name in absent else object())
    monkeypatch.setattr(ops.shutil, "which", lambda name: None if "gcc" in absent else name)
    with pytest.raises(BackendError, match=message):
        ops.load_ops("cuda")


def gpu_finding(device: str) -> doctor.Finding:
    return next(each for each in doctor.examine(Settings(device=device), None) if each.subject == "gpu")  # type: ignore[arg-type]


def test_doctor_names_device_driver_torch_and_triton_or_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "version")
    assert gpu_finding("auto").level == "note"
    assert gpu_finding("cuda") == doctor.Finding(
        "gpu", "bad", "no NVIDIA driver is loaded: the processor computes", "--device cpu"
    )
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n"
        "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
    )
    monkeypatch.setattr(torch.version, "cuda", None)
    found = gpu_finding("cuda")
    assert (found.level, found.fix) == ("bad", "install PyPI's build for Linux")
    assert found.detail == f"driver 580.95.05, but torch {torch.__version__} was built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    properties = type("Properties", (), {"name": "NVIDIA H100", "total_memory": 80 * GIB, "major": 9, "minor": 0})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = gpu_finding("cuda")
    assert found.level == "good"
    for part in (
        "NVIDIA H100, 80 GiB",
        "9.0",
        f"torch {torch.__version__} for CUDA 13.0",
        "Triton",
        "driver 580.95.05",
    ):
        assert part in found.detail
