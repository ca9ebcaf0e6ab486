"""A whole model and its adapters on the CUDA operations, through the engine. Without a GPU under Triton's interpreter."""

from pathlib import Path

import numpy as np
import pytest
from adapters import write_adapter
from checkpoints import write_checkpoint
from interpreter import exact_products
from numpy.typing import NDArray

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from guardhouse.engine.engine import Engine, EngineConfig  # noqa: E402
from guardhouse.engine.request import Request  # noqa: E402
from guardhouse.model.checkpoint import Checkpoint  # noqa: E402
from guardhouse.model.llama import Llama, load_llama  # noqa: E402
from guardhouse.model.lora import Adapter, load_adapter  # noqa: E402
from guardhouse.ops.cuda import CudaOps  # noqa: E402
from guardhouse.ops.reference import ReferenceOps  # noqa: E402
from guardhouse.ops.table import Ops  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # numpy's, in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


Ids = NDArray[np.int32]
SIZES = EngineConfig(num_blocks=32, max_model_len=128, block_size=8, max_num_batched_tokens=24)


@pytest.fixture(autouse=True)
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        exact_products(monkeypatch)


def logits(model: Llama, prompts: list[Ids], adapters: list[Adapter | None]) -> list[NDArray[np.float32]]:
    """The last token's logits of prompts that are submitted together, behind a pinned prefix."""
    with Engine(model, SIZES) as engine:
        engine.pin(prompts[0][:10])
        requests = zip(prompts, adapters, strict=True)
        futures = [engine.submit(Request(ids, (len(ids) - 1,), adapter=adapter)) for ids, adapter in requests]
        return [future.result(240).logits[0] for future in futures]


def judge(
    folder: Path, adapter_folders: list[Path], ops: Ops, prompts: list[Ids]
) -> tuple[list[NDArray[np.float32]], Llama, list[Adapter | None]]:
    """The first prompt without an adapter, each of the others under its own."""
    model = load_llama(Checkpoint.open(folder), ops, None)
    adapters = [None, *(load_adapter(each, model.config, ops) for each in adapter_folders)]
    return logits(model, prompts, adapters), model, adapters


@pytest.mark.parametrize("quant", [None, 64])
def test_logits_are_near_the_reference_and_the_same_bits_alone_and_beside_adapters(
    tmp_path: Path, quant: int | None
) -> None:
    folder = write_checkpoint(
        tmp_path / "model", quant=quant, layers=2 if quant else 1, heads=2, kv_heads=1, head_dim=32
    )
    names = ("first", "second")
    adapter_folders = [write_adapter(tmp_path / name, folder, seed=seed) for seed, name in enumerate(names)]
    rng = np.random.default_rng(0)
    start = rng.integers(3, 400, 10, dtype=np.int32)
    prompts = [np.concatenate([start, rng.integers(3, 400, length, dtype=np.int32)]) for length in (9, 1, 4)]
    (found, model, adapters), (expected, _, _) = (
        judge(folder, adapter_folders, ops, prompts) for ops in (CudaOps(DEVICE), ReferenceOps())
    )
    for index in (0, 1):
        (alone,) = logits(model, [prompts[index]], [adapters[index]])
        np.testing.assert_array_equal(alone, found[index])
    # float16 products and cache: 11 bits; int8 activations: 2-3 % per layer (docs/log.md)
    bound = 0.01 if quant is None else 0.06
    for one, wanted in zip(found, expected, strict=True):
        assert np.sqrt(np.mean((one - wanted) ** 2)) < bound * float(np.std(wanted))
