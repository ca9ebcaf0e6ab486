"""The random model that GPUs are measured with, on a small shape; without a GPU under Triton's interpreter."""

import numpy as np
import pytest

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from benchmarks.random_model import random_linear, random_llama  # noqa: E402
from guardhouse.model.llama_config import LlamaConfig  # noqa: E402
from guardhouse.ops.cuda import CudaOps  # noqa: E402
from guardhouse.ops.table import Batch  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # numpy's, in the interpreter
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_its_weights_average_zero_and_keep_the_size_of_what_goes_through() -> None:
    ops = CudaOps(DEVICE)
    weight = random_linear(torch.Generator(DEVICE).manual_seed(1), 1024, 128)
    x = np.random.default_rng(0).standard_normal((16, 1024), dtype=np.float32)
    y = ops.to_host(ops.linear(ops.array(x), weight))
    assert abs(float(y.mean())) < 0.2
    assert 0.5 < float(y.std()) < 2


def test_it_runs() -> None:
    config = LlamaConfig(90, 128, 256, 2, 2, 1, 64, 1e-5, 1e4, None, 64, False, False, False, None, 1, (2,))
    llama = random_llama(config, CudaOps(DEVICE), 64, DEVICE)
    positions = np.arange(5, dtype=np.int32)
    batch = Batch(positions, positions, np.array([0, 5], "i4"), np.array([5], "i4"), np.array([[0]], "i4"))
    logits = llama.forward(positions, batch, llama.allocate_cache(1, 16), np.array([4], np.int32))
    assert logits.shape == (1, 90)
    assert np.isfinite(logits).all()
