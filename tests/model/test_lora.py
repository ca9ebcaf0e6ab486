"""What model/lora.py promises: PEFT's own logits, other rows untouched, everything broken refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from adapters import EVERY_LINEAR, adapter_config, adapter_tensors, write_adapter
from checkpoints import edit_json, write_checkpoint, write_json
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from guardhouse.errors import AdapterError, BackendError
from guardhouse.model.awq import dequantize
from guardhouse.model.checkpoint import Checkpoint
from guardhouse.model.llama import Llama, load_llama
from guardhouse.model.lora import Adapter, load_adapter
from guardhouse.ops.cpu import CpuOps
from guardhouse.ops.reference import ReferenceOps
from guardhouse.ops.table import Batch, Int4Weight, Ops

BLOCK_SIZE = 8
NUM_TOKENS = 40
Logits = NDArray[np.float32]


def token_ids(seed: int = 0, length: int = NUM_TOKENS) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 400, length, np.int32)


def logits_of(model: Llama, sequences: list[NDArray[np.int32]], adapters: list[Adapter | None]) -> list[Logits]:
    """Logits after every token of every sequence, all in one batch."""
    starts = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    num_blocks = -(-max(map(len, sequences)) // BLOCK_SIZE)
    blocks = np.arange(len(sequences) * num_blocks, dtype=np.int32).reshape(len(sequences), num_blocks)
    positions = np.concatenate([np.arange(len(sequence)) for sequence in sequences]).astype(np.int32)
    of_row = np.repeat(np.arange(len(sequences)), np.diff(starts))
    slots = blocks[of_row, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    batch = Batch(positions, slots.astype(np.int32), starts, np.diff(starts).astype(np.int32), blocks)
    cache = model.allocate_cache(blocks.size, BLOCK_SIZE)
    rows = np.arange(starts[-1], dtype=np.int32)
    logits = model.forward(np.concatenate(sequences), batch, cache, rows, adapters)
    return np.split(logits, starts[1:-1])


def load(folder: Path, ops: Ops) -> Llama:
    return load_llama(Checkpoint.open(folder), ops, cache_dir=None)


def transformers_model(folder: Path) -> Any:
    """The oracle in float32; AWQ linears are given to it dequantised."""
    fields = json.loads((folder / "config.json").read_text())
    fields.pop("quantization_config", None)
    fields.pop("torch_dtype")
    oracle: Any = LlamaForCausalLM(LlamaConfig(**fields))
    checkpoint = Checkpoint.open(folder)
    state = {}
    for name in oracle.state_dict():
        module = name.removesuffix(".weight")
        if "_proj" in name:
            linear = checkpoint.linear(module)
            dense = dequantize(linear).weight if isinstance(linear, Int4Weight) else linear.weight
            state[name] = torch.from_numpy(np.array(dense, np.float32))
        else:
            state[name] = torch.from_numpy(checkpoint.tensor(name).astype(np.float32))
    oracle.load_state_dict(state)
    return oracle.eval()


def peft_logits(model: Any, ids: NDArray[np.int32]) -> Logits:
    with torch.no_grad():
        result: Logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
    return result


VARIANTS: dict[str, dict[str, Any]] = {
    "the usual two": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "every linear": {"r": 4, "lora_alpha": 3, "target_modules": "all-linear"},
    "rank-stabilised": {"r": 16, "lora_alpha": 8, "use_rslora": True, "target_modules": list(EVERY_LINEAR)},
    "odd rank": {"r": 3, "lora_alpha": 7, "target_modules": ["k_proj", "up_proj", "down_proj"]},
    "rank 1": {"r": 1, "lora_alpha": 1, "target_modules": ["o_proj", "gate_proj"]},
    "highest rank": {"r": 64, "lora_alpha": 16, "target_modules": ["q_proj", "o_proj"]},
    "one layer": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "a regular expression": {"r": 4, "lora_alpha": 8, "target_modules": r".*layers\.0\..*(q|up)_proj"},
    "excluded modules": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj"],
        "exclude_modules": ["k_proj"],
    },
    "ranks and alphas of single modules": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj"],
        "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"v_proj": 5, "^model.layers.0.self_attn.q_proj": 9},
    },
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # within peft
@pytest.mark.parametrize("quant", [None, 32], ids=["dense", "awq"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_peft(tmp_path: Path, variant: str, quant: int | None) -> None:
    folder = write_checkpoint(tmp_path / "model", quant=quant, dtype="float32")
    torch.manual_seed(5)
    base = transformers_model(folder)
    without = peft_logits(base, token_ids())
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, lora_dropout=0.1, **VARIANTS[variant])
    oracle = peft.get_peft_model(base, config).eval()  # not initialised to zero: random in both matrices
    oracle.save_pretrained(tmp_path / "adapter")
    expected = peft_logits(oracle, token_ids())

    model = load(folder, ReferenceOps())
    adapter = load_adapter(tmp_path / "adapter", model.config, model.ops)
    (found,) = logits_of(model, [token_ids()], [adapter])
    assert np.abs(expected - without).max() > 0.01, "the adapter changes nothing"
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("lora") / "model", quant=32)


@pytest.fixture(scope="module")
def cpu_model(folder: Path) -> Llama:
    try:
        return load(folder, CpuOps(1))
    except BackendError as error:
        pytest.skip(str(error))


def test_a_mixed_batch_gives_every_row_the_bits_it_has_alone(cpu_model: Llama, folder: Path, tmp_path: Path) -> None:
    model = cpu_model
    first = load_adapter(write_adapter(tmp_path / "1", folder, seed=1), model.config, model.ops)
    second = load_adapter(
        write_adapter(tmp_path / "2", folder, rank=7, targets=("q_proj", "up_proj"), seed=2), model.config, model.ops
    )
    adapters = [None, first, second, first, None, second, None]
    sequences = [token_ids(seed, length) for seed, length in enumerate([5, 40, 1, 13, 33, 22, 1])]
    mixed = logits_of(model, sequences, adapters)
    for sequence, adapter, logits in zip(sequences, adapters, mixed, strict=True):
        (alone,) = logits_of(model, [sequence], [adapter])
        assert logits.tobytes() == alone.tobytes()
        (plain,) = logits_of(model, [sequence], [])
        assert (logits.tobytes() == plain.tobytes()) == (adapter is None)


def test_selected_rows_are_the_same_as_among_all(cpu_model: Llama, folder: Path, tmp_path: Path) -> None:
    """The last layer runs for the asked-for rows only: their adapters must follow them."""
    model = cpu_model
    adapter = load_adapter(write_adapter(tmp_path / "1", folder), model.config, model.ops)
    sequences = [token_ids(1, 6), token_ids(2, 9)]
    everything = logits_of(model, sequences, [None, adapter])
    starts = np.array([0, 6, 15], np.int32)
    blocks = np.array([[0, -1], [1, 2]], np.int32)
    positions = np.concatenate([np.arange(6), np.arange(9)]).astype(np.int32)
    slots = np.concatenate([np.arange(6), 8 + np.arange(9)]).astype(np.int32)
    batch = Batch(positions, slots, starts, np.array([6, 9], np.int32), blocks)
    rows = np.array([2, 6, 14], np.int32)
    logits = model.forward(np.concatenate(sequences), batch, model.allocate_cache(3, 8), rows, [None, adapter])
    assert logits.tobytes() == np.concatenate(everything)[rows].tobytes()


def test_threads_change_no_bit_of_an_adapters_rows(folder: Path, tmp_path: Path, cpu_model: Llama) -> None:
    write_adapter(tmp_path / "1", folder, rank=5)
    found = []
    for threads in (1, 2):
        model = load(folder, CpuOps(threads))
        adapter = load_adapter(tmp_path / "1", model.config, model.ops)
        found.append(logits_of(model, [token_ids()], [adapter])[0].tobytes())
    assert found[0] == found[1]


def test_an_unloaded_adapters_weights_leave_memory(folder: Path, tmp_path: Path, cpu_model: Llama) -> None:
    model = cpu_model
    num_known = len(model.ops._weights)  # type: ignore[attr-defined]
    adapter = load_adapter(write_adapter(tmp_path / "1", folder), model.config, model.ops)
    logits_of(model, [token_ids()], [adapter])
    assert len(model.ops._weights) > num_known  # type: ignore[attr-defined]
    del adapter
    assert len(model.ops._weights) == num_known  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_number_format_is_read(folder: Path, tmp_path: Path, dtype: str) -> None:
    model = load(folder, ReferenceOps())
    write_adapter(tmp_path, folder)
    expected = load_adapter(tmp_path, model.config, model.ops)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.astype(dtype) for name, tensor in load_file(path).items()}, path)
    found = load_adapter(tmp_path, model.config, model.ops)
    a, b = (one.layers[0]["qkv"].down.arrays["weight"] for one in (expected, found))
    np.testing.assert_allclose(a, b, rtol=1e-3)
    assert (expected.fingerprint == found.fingerprint) == (dtype == "float32")


Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return damage


def setting(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "adapter_config.json", **fields)


def cut(size: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:size])

    return damage


def with_nan(tensors: dict[str, Any]) -> None:
    tensors[f"{Q_PROJ}.lora_A.weight"][1, 2] = np.nan


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: no such file"),
    "configuration is no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "adapter_config.json",
    ),
    "configuration is a list": (
        lambda folder: (folder / "adapter_config.json").write_text("[]"),
        "adapter_config.json",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors: no such",
    ),
    "weights cut short": (cut(5000), "adapter_model.safetensors: not a valid safetensors file"),
    "weights empty": (cut(0), "adapter_model.safetensors: not a valid safetensors file"),
    "pickled weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 200),
        "adapter_model.safetensors: not a valid safetensors file",
    ),
    "no tensors": (rewrite(lambda tensors: tensors.clear()), "holds no tensors"),
    "half of a pair": (
        rewrite(lambda tensors: tensors.pop(f"{Q_PROJ}.lora_B.weight")),
        f"{Q_PROJ}.lora_B.weight is miss",
    ),
    "a module is missing": (
        rewrite(lambda t: (t.pop(f"{Q_PROJ}.lora_A.weight"), t.pop(f"{Q_PROJ}.lora_B.weight"))),
        f"{Q_PROJ}.lora_A.weight is missing",
    ),
    "a module too many": (setting(target_modules=["q_proj", "k_proj"]), "is adapted, but adapter_config.json does not"),
    "wrong rank": (setting(r=5), "lora_A.weight: expected F16 or BF16 or F32 [5, 128], found F32 [4, 128]"),
    "wrong shape": (
        rewrite(lambda t: t.update({f"{Q_PROJ}.lora_B.weight": np.zeros((60, 4), np.float32)})),
        f"{Q_PROJ}.lora_B.weight: expected F16 or BF16 or F32 [64, 4], found F32 [60, 4]",
    ),
    "integers": (
        rewrite(lambda t: t.update({f"{Q_PROJ}.lora_B.weight": np.zeros((64, 4), np.int32)})),
        f"{Q_PROJ}.lora_B.weight: expected",
    ),
    "NaN": (rewrite(with_nan), "model.layers.0.self_attn.q_proj.lora_A.weight: holds NaN"),
    "a layer too many": (
        rewrite(lambda t: t.update({Q_PROJ.replace("0", "9") + ".lora_A.weight": np.zeros((4, 64), np.float32)})),
        "layers.9.self_attn.q_proj.lora_A.weight' adapts nothing",
    ),
    "an embedding": (
        rewrite(
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 9), np.float32)})
        ),
        "lora_embedding_A' adapts nothing",
    ),
    "DoRA's tensors": (
        rewrite(lambda t: t.update({f"{Q_PROJ}.lora_magnitude_vector": np.zeros(64, np.float32)})),
        "lora_magnitude_vector' adapts nothing",
    ),
    "rank too high": (setting(r=65), "adapter_config.json: r must be a rank from 1 to 64, found 65"),
    "rank 0": (setting(r=0), "r must be a rank"),
    "rank is a flag": (setting(r=True), "r must be a rank"),
    "no rank": (setting(r=...), "r must be a rank"),
    "alpha is text": (setting(lora_alpha="16"), "lora_alpha must be a number"),
    "alpha is infinite": (setting(lora_alpha=float("inf")), "lora_alpha must be a number"),
    "DoRA": (setting(use_dora=True), "DoRA (use_dora) is not supported"),
    "modules_to_save": (setting(modules_to_save=["lm_head"]), "modules_to_save"),
    "biases": (setting(bias="all"), "bias 'all' is not supported, only 'none'"),
    "another method": (setting(peft_type="IA3"), "peft_type 'IA3' is not supported"),
    "another architecture": (setting(model_type="mistral"), "model_type 'mistral' is not supported, only 'llama'"),
    "another task": (setting(task_type="SEQ_CLS"), "task_type 'SEQ_CLS' is not supported"),
    "PiSSA": (setting(init_lora_weights="pissa"), "init_lora_weights 'pissa' changes the base weights"),
    "the future": (setting(use_tomorrows_lora=True), "'use_tomorrows_lora' is set, and what it means is not known"),
    "no targets": (setting(target_modules=[]), "target_modules must be a list"),
    "targets of another model": (setting(target_modules=["c_attn"]), "target_modules name no linear layer"),
    "the head": (setting(target_modules=["q_proj", "lm_head"]), "target module 'lm_head' is not supported"),
    "layers that are words": (setting(layers_to_transform=["one"]), "layers_to_transform must be"),
    "a pattern that could take for ever": (setting(rank_pattern={"(a+)+$": 4}), "is a regular expression"),
    "a pattern that is no object": (setting(alpha_pattern=["q_proj"]), "alpha_pattern must be an object"),
    "a pattern's rank": (setting(rank_pattern={"q_proj": 99}), "rank_pattern 'q_proj' must be a rank"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused_by_name(folder: Path, tmp_path: Path, case: str) -> None:
    damage, message = BROKEN[case]
    write_adapter(tmp_path, folder)
    damage(tmp_path)
    config = Checkpoint.open(folder).config
    with pytest.raises(AdapterError) as refusal:
        load_adapter(tmp_path, config, ReferenceOps())
    assert message in str(refusal.value)


def test_an_adapter_of_a_model_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    wider = write_checkpoint(tmp_path / "wider", hidden=96, quant=32)
    write_adapter(tmp_path / "adapter", wider)
    with pytest.raises(AdapterError, match=r"_proj\.lora_B\.weight: expected .* \[64, 4\], found F32 \[96, 4\]"):
        load_adapter(tmp_path / "adapter", Checkpoint.open(folder).config, ReferenceOps())


def test_a_hostile_target_pattern_is_never_run(folder: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", adapter_config() | {"target_modules": "(([a-z_.0-9]+)+)+!"})
    save_file(adapter_tensors(folder), tmp_path / "adapter_model.safetensors")
    assert load_adapter(tmp_path, Checkpoint.open(folder).config, ReferenceOps()).layers
