"""Steps that repeat are recorded and replayed, with the results and the cache of steps that were not.

CUDA graphs need a device, and are used where there is one. Elsewhere a stand-in records, with their rules: recording runs
nothing (its result holds NaN until the first replay), a replay runs the same operations on the same addresses, and whatever
reaches for the host meanwhile fails.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter import exact_products

pytest.importorskip("triton", reason="Triton is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")

from guardhouse.model.checkpoint import Checkpoint  # noqa: E402
from guardhouse.model.llama import Llama, load_llama  # noqa: E402
from guardhouse.ops.cuda import CudaOps  # noqa: E402
from guardhouse.ops.gpu import steps  # noqa: E402
from guardhouse.ops.gpu.steps import CudaGraphRecorder, Shape, Steps, WorkShape, lay_out  # noqa: E402
from guardhouse.ops.table import Batch, Float32, Int32, KVCache  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]  # numpy's, in the interpreter
BLOCK = 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Call = Callable[[], "torch.Tensor | None"]


class StandIn:
    """See this file's head."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, call: Call) -> tuple[Callable[[], None], "torch.Tensor | None"]:
        self.num_recorded += 1
        result = self._without_host(call)
        if result is not None:
            result.fill_(float("nan"))

        def replay() -> None:
            self.num_replayed += 1
            again = self._without_host(call)
            if result is not None and again is not None:
                result.copy_(again)

        return replay, result

    def _without_host(self, call: Call) -> "torch.Tensor | None":
        with pytest.MonkeyPatch.context() as patch:
            for name in ("from_numpy", "tensor", "as_tensor"):
                patch.setattr(torch, name, forbidden)
            for name in ("item", "tolist", "numpy", "cpu"):
                patch.setattr(torch.Tensor, name, forbidden)
            return call()


def forbidden(*arguments: object) -> None:
    raise AssertionError("the host was reached for inside a recording")


class CudaGraphs(StandIn):
    """The real thing, counted."""

    def __call__(self, call: Call) -> tuple[Callable[[], None], "torch.Tensor | None"]:
        self.num_recorded += 1
        replay, result = CudaGraphRecorder()(call)

        def counted() -> None:
            self.num_replayed += 1
            replay()

        return counted, result


def one_step(spans: list[tuple[int, int, int]]) -> tuple[Int32, Batch]:
    """Tokens and batch of (sequence, first position, end) spans; sequence s has the blocks 4 s .. 4 s + 3."""
    positions = np.concatenate([np.arange(start, end, dtype=np.int32) for _, start, end in spans])
    of_row = np.repeat([seq for seq, _, _ in spans], [end - start for _, start, end in spans])
    slots = (of_row * 4 * BLOCK + positions).astype(np.int32)
    tables = np.array([range(seq * 4, seq * 4 + 4) for seq, _, _ in spans], np.int32)
    starts = np.cumsum([0] + [end - start for _, start, end in spans], dtype=np.int32)
    ids = ((of_row * 31 + positions * 7) % 300 + 3).astype(np.int32)
    return ids, Batch(positions, slots, starts, np.array([end for _, _, end in spans], np.int32), tables)


def run(model: Llama, cache: KVCache, spans: list[tuple[int, int, int]], rows: list[int]) -> Float32:
    ids, batch = one_step(spans)
    return model.forward(ids, batch, cache, np.array(rows, np.int32))


def test_replayed_steps_have_the_bits_of_steps_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        exact_products(monkeypatch)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, quant=64, layers=1, heads=2, kv_heads=1, head_dim=32))
    recorder = StandIn() if DEVICE == "cpu" else CudaGraphs()
    both = (CudaOps(DEVICE, recorder), CudaOps(DEVICE, is_recorded=False))
    recorded, plain = (load_llama(checkpoint, each, None) for each in both)
    caches = [model.allocate_cache(16, BLOCK) for model in (recorded, plain)]
    for spans, rows in [
        ([(0, 0, 5), (1, 0, 2)], [4, 6]),  # 7 tokens, padded to 8: runs
        ([(2, 0, 6), (0, 5, 6)], [3, 5]),  # the same shape: recorded
        ([(1, 2, 7), (2, 6, 9)], [2, 7]),  # replayed, with other tokens and no padding
        ([(3, 0, 4)], []),  # nothing is asked for
        ([(3, 4, 7)], []),  # 3 tokens as 4: recorded, without a result
        ([(0, 6, 7), (1, 7, 8), (2, 9, 10)], [0, 1, 2]),  # everything is
        ([(3, 7, 8), (1, 8, 9), (0, 7, 8)], [0, 1, 2]),
    ]:
        found, expected = (
            run(model, cache, spans, rows) for model, cache in zip((recorded, plain), caches, strict=True)
        )
        assert found.shape == (len(rows), checkpoint.config.vocab_size)
        np.testing.assert_array_equal(found, expected)
        for part in ("keys", "values"):
            np.testing.assert_array_equal(*(getattr(cache, part).cpu().numpy() for cache in caches))
    assert recorder.num_recorded == 3
    assert recorder.num_replayed == 4


def arrays(num_tokens: int, num_items: int = 2, num_tables: int = 4) -> dict[str, Int32]:
    row = np.arange(num_tokens, dtype=np.int32)
    items = np.ones((5, num_items), np.int32)
    parts = dict.fromkeys(("token_ids", "positions", "slot_mapping", "span_counts"), row)
    asked = dict.fromkeys(("rows", "asked_positions", "asked_span_counts"), row[:0])
    nothing = dict.fromkeys(("walks", "asked_items", "asked_walks"), items[:, :0])
    return {
        **parts,
        **asked,
        **nothing,
        "items": items,
        "block_tables": np.arange(num_tables, dtype=np.int32),
    }


def run_steps(cases: list[tuple[int, object]], recorder: StandIn | None, num_tables: int = 4) -> list[int]:
    """The sums that a step's tokens have, for steps of (tokens, key)."""
    runner = Steps(torch.device("cpu"), recorder)
    found = []
    for num_tokens, key in cases:
        shape = Shape(num_tokens, WorkShape(2, 0, 1), 0, WorkShape(), has_result=True)
        result = runner.run(
            arrays(num_tokens, 2, num_tables), shape, lambda inputs: inputs.arrays["token_ids"] * 2.0, key
        )
        assert result is not None
        assert result.shape == (num_tokens,)
        found.append(int(result.sum()))
    return found


def test_a_shape_runs_is_recorded_and_is_replayed_each_key_for_itself() -> None:
    recorder = StandIn()
    cases: list[tuple[int, object]] = [(20, "a"), (30, "a"), (20, "b"), (31, "a"), (40, "a"), (32, "b")]
    assert run_steps(cases, recorder) == [n * (n - 1) for n, _ in cases]
    assert (recorder.num_recorded, recorder.num_replayed) == (2, 3)


@pytest.mark.parametrize(
    ("num_tokens", "key", "num_tables"),
    [(20, None, 4), (steps.MAX_RECORDED_TOKENS + 1, "a", 4), (20, "a", steps.CAPACITY)],
)
def test_what_cannot_repeat_runs_as_it_is(num_tokens: int, key: object, num_tables: int) -> None:
    recorder = StandIn()
    assert run_steps([(num_tokens, key)] * 3, recorder, num_tables) == [num_tokens * (num_tokens - 1)] * 3
    assert recorder.num_recorded == 0


def test_recordings_share_the_memory_of_their_results() -> None:
    runner = Steps(torch.device("cpu"), StandIn())
    for num_tokens in (40, 40, 20, 20, 7, 7, 40):
        shape = Shape(num_tokens, WorkShape(2, 0, 1), 0, WorkShape(), has_result=True)
        result = runner.run(arrays(num_tokens), shape, lambda inputs: inputs.arrays["token_ids"] * 2.0, "a")
        assert result is not None
        assert int(result.sum()) == num_tokens * (num_tokens - 1)
    assert len({recording.result.data_ptr() for recording in runner._recordings.values()}) == 1  # type: ignore[union-attr]


def test_the_recording_that_was_not_used_for_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_RECORDINGS", 2)
    recorder = StandIn()
    run_steps([(16, "a"), (16, "b"), (16, "c"), (16, "a"), (16, "b"), (16, "a"), (16, "c")], recorder)
    assert recorder.num_recorded == 3
    run_again = StandIn()
    run_steps([(16, key) for key in "aabbaccbaa"], run_again)  # c pushes b out, b is recorded anew and pushes a out
    assert run_again.num_recorded == 5


def test_a_failed_recording_is_told_and_steps_go_on_without(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(StandIn):
        def __call__(self, call: Call) -> tuple[Callable[[], None], "torch.Tensor | None"]:
            super().__call__(call)
            raise RuntimeError("operation not permitted when stream is capturing")

    recorder = Failing()
    assert run_steps([(16, "a")] * 4, recorder) == [240] * 4
    assert recorder.num_recorded == 1, "not tried again"
    assert "could not be recorded" in caplog.text


WORK_SHAPES = st.builds(WorkShape, st.integers(0, 900), st.integers(0, 900), st.integers(0, 40))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3000), WORK_SHAPES, st.integers(0, 3000), WORK_SHAPES)
def test_the_grid_of_shapes_is_coarse_and_never_too_small(
    tokens: int, work: WorkShape, rows: int, asked_work: WorkShape
) -> None:
    shape = Shape(tokens, work, rows, asked_work, has_result=True)
    padded = shape.padded()
    assert padded.padded() == padded
    assert tokens <= padded.num_tokens <= max(2 * tokens - 1, 1)
    assert padded.num_tokens <= tokens * 1.5 or tokens < 32
    assert (padded.num_rows == 0) == (rows == 0)
    assert rows <= padded.num_rows
    for one, grid in ((work, padded.work), (asked_work, padded.asked_work)):
        for name in ("num_items", "num_walks", "max_spans"):
            number, rounded = getattr(one, name), getattr(grid, name)
            assert number <= rounded <= max(8, 2 * number)
            assert (number == 0) == (rounded == 0), "nothing is launched for nothing"


def test_every_part_starts_on_16_bytes_and_padding_is_harmless() -> None:
    numbers = arrays(5, num_items=3)
    inputs = Steps(torch.device("cpu"), None)._send_flat(
        lay_out(numbers, padded := Shape(5, WorkShape(3, 0, 1), 0, WorkShape(), has_result=True).padded()), padded
    )
    for name, part in inputs.arrays.items():
        assert part.storage_offset() % steps.ALIGNMENT == 0, name
    assert inputs.arrays["slot_mapping"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert inputs.arrays["token_ids"].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert inputs.arrays["items"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]] * 5
    assert inputs.arrays["block_tables"].tolist() == [0, 1, 2, 3]
