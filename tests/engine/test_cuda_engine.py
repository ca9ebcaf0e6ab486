"""A whole model on the CUDA operations, through the engine. Under Triton's interpreter where there is no GPU."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from guardhouse.engine.engine import Engine, EngineConfig  # noqa: E402
from guardhouse.engine.request import Request  # noqa: E402
from guardhouse.model.checkpoint import Checkpoint  # noqa: E402
from guardhouse.model.llama import load_llama  # noqa: E402
from guardhouse.ops.cuda import CudaOps  # noqa: E402
from guardhouse.ops.reference import ReferenceOps  # noqa: E402
from guardhouse.ops.table import Ops  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # numpy's, in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def logits(folder: Path, ops: Ops, prompts: list["np.ndarray[tuple[int], np.dtype[np.int32]]"]) -> list["np.ndarray"]:  # type: ignore[type-arg]
    """The last token's logits of prompts that are submitted together, behind a pinned prefix."""
    model = load_llama(Checkpoint.open(folder), ops, None)
    with Engine(
        model, EngineConfig(num_blocks=32, max_model_len=128, block_size=8, max_num_batched_tokens=16)
    ) as engine:
        engine.pin(prompts[0][:10])
        futures = [engine.submit(Request(ids, logit_positions=(len(ids) - 1,))) for ids in prompts]
        return [future.result(240).logits[0] for future in futures]


@pytest.mark.parametrize("quant", [None, 64])
def test_logits_are_near_the_reference_alone_and_in_a_batch(tmp_path: Path, quant: int | None) -> None:
    folder = write_checkpoint(tmp_path, quant=quant, layers=1)
    rng = np.random.default_rng(0)
    start = rng.integers(3, 400, 10, dtype=np.int32)
    prompts = [np.concatenate([start, rng.integers(3, 400, length, dtype=np.int32)]) for length in (9, 1, 4)]
    expected = logits(folder, ReferenceOps(), prompts)
    together = logits(folder, CudaOps(DEVICE), prompts)
    alone = logits(folder, CudaOps(DEVICE), prompts[:1])
    deviation = float(np.std(expected))
    for found, wanted in zip(together, expected, strict=True):
        # float16 products and cache: 11 bits; int8 activations: 2-3 % per layer (docs/log.md)
        assert np.sqrt(np.mean((found - wanted) ** 2)) < (0.005 if quant is None else 0.05) * deviation
    np.testing.assert_allclose(alone[0], together[0], rtol=0, atol=0 if DEVICE == "cuda" else 1e-4 * deviation)
