"""Read a PEFT adapter's adapter_config.json into one checked value.

Knows: PEFT's fields, which of them change the mathematics, and which variants of LoRA are supported.
Never knows: tensors, backends, where adapters are kept.

PEFT's names of modules may be regular expressions. None is ever run here: the file may come from anyone, and a hostile
pattern can take for ever. Plain names are matched as PEFT matches them; where a pattern stands, the tensors that are in
the weight file decide which modules are adapted.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guardhouse.errors import AdapterError, CheckpointError
from guardhouse.model.layout import layer_linears
from guardhouse.model.llama_config import LlamaConfig, read_json

CONFIG_FILE = "adapter_config.json"
MAX_RANK = 64
ALL_LINEAR = "all-linear"  # PEFT's word for every linear but the head
PLAIN_NAME = re.compile(r"\^?[\w.]+")  # a pattern's key that is a module's name, or the end of one

# Fields that are there for training, for bookkeeping, or read below.
KNOWN = frozenset(
    """alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config
    exclude_modules fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config
    lora_alpha lora_dropout lora_ga_config megatron_core model_type peft_type peft_version qalora_group_size r
    rank_pattern revision runtime_config target_modules task_type use_rslora""".split()  # noqa: SIM905  # a list would be 30 lines
)
UNSUPPORTED = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "modules_to_save (whole layers beside the adapter)",
    "lora_bias": "lora_bias",
    "fan_in_fan_out": "fan_in_fan_out",
    "use_qalora": "QA-LoRA (use_qalora)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer_replication",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable_token_indices",
}
INITIALISATIONS = (None, True, False, "gaussian", "orthogonal", "eva")  # all others change the base weights, too


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of an adapter's configuration that its mathematics depends on."""

    rank: int
    alpha: float
    uses_rslora: bool  # scaled by alpha / sqrt(rank) instead of alpha / rank
    targets: tuple[str, ...] | None  # names, or ends of names, of adapted modules; None: the weight file decides
    layers: frozenset[int] | None  # only these; None: all
    ranks: Mapping[str, int]  # of single modules, by name or end of name
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        return next((rank for end, rank in self.ranks.items() if _is_meant(module, end)), self.rank)

    def scaling_of(self, module: str) -> float:
        rank = self.rank_of(module)
        alpha = next((alpha for end, alpha in self.alphas.items() if _is_meant(module, end)), self.alpha)
        return alpha / math.sqrt(rank) if self.uses_rslora else alpha / rank

    def expected_modules(self, llama: LlamaConfig) -> frozenset[str] | None:
        """Names of all modules that must be adapted; None where the weight file decides."""
        if self.targets is None:
            return None
        names = frozenset(
            linear.name
            for layer in range(llama.num_layers)
            if self.layers is None or layer in self.layers
            for linear in layer_linears(llama, layer)
            if self.targets == (ALL_LINEAR,) or any(_ends(linear.name, target) for target in self.targets)
        )
        if not names:
            raise AdapterError(f"{CONFIG_FILE}: target_modules name no linear layer of this model")
        return names


def read_lora_config(folder: Path) -> LoraConfig:
    """adapter_config.json, or an AdapterError that names the field.

    >>> read_lora_config(Path("my-adapter")).rank       # doctest: +SKIP
    16
    """
    try:
        fields = read_json(folder / CONFIG_FILE)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    _refuse_unsupported(fields)
    ranks = {name: _checked_rank(f"rank_pattern {name!r}", value) for name, value in _pattern(fields, "rank_pattern")}
    alphas = {
        name: _checked_alpha(f"alpha_pattern {name!r}", value) for name, value in _pattern(fields, "alpha_pattern")
    }
    return LoraConfig(
        rank=_checked_rank("r", fields.get("r")),
        alpha=_checked_alpha("lora_alpha", fields.get("lora_alpha")),
        uses_rslora=bool(fields.get("use_rslora")),
        targets=_targets(fields),
        layers=_layers(fields.get("layers_to_transform")),
        ranks=ranks,
        alphas=alphas,
    )


def _refuse_unsupported(fields: Mapping[str, Any]) -> None:
    allowed: Mapping[str, tuple[object, ...]] = {
        "peft_type": ("LORA",),
        "model_type": ("llama", None),
        "task_type": ("CAUSAL_LM", None),
        "bias": ("none", None),
    }
    for name, values in allowed.items():
        if fields.get(name) not in values:
            raise AdapterError(f"{CONFIG_FILE}: {name} {fields.get(name)!r:.100} is not supported, only {values[0]!r}")
    for name, what in UNSUPPORTED.items():
        if fields.get(name):
            raise AdapterError(f"{CONFIG_FILE}: {what} is not supported, only plain LoRA on linear layers")
    if fields.get("init_lora_weights") not in INITIALISATIONS:
        raise AdapterError(
            f"{CONFIG_FILE}: init_lora_weights {fields['init_lora_weights']!r:.100} changes the base weights, too; save the "
            "adapter converted to plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    for name, value in fields.items():
        if value and name not in KNOWN:
            raise AdapterError(f"{CONFIG_FILE}: {name!r:.100} is set, and what it means is not known to this version")


def _targets(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    targets = fields.get("target_modules")
    if targets == ALL_LINEAR:
        return (ALL_LINEAR,) if not fields.get("exclude_modules") else None
    if isinstance(targets, str) and targets:  # a regular expression
        return None
    if not (isinstance(targets, list) and targets and all(isinstance(name, str) and name for name in targets)):
        raise AdapterError(f"{CONFIG_FILE}: target_modules must be a list of module names")
    for outside in ("lm_head", "embed_tokens"):
        if any(_ends(name, outside) for name in targets):
            raise AdapterError(f"{CONFIG_FILE}: target module {outside!r} is not supported, only the layers' linears")
    return tuple(targets) if not fields.get("exclude_modules") and not fields.get("layers_pattern") else None


def _layers(value: object) -> frozenset[int] | None:
    layers = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise AdapterError(f"{CONFIG_FILE}: layers_to_transform must be a layer's number, or a list of them")
    return frozenset(layers) or None


def _pattern(fields: Mapping[str, Any], name: str) -> Iterable[tuple[str, object]]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise AdapterError(f"{CONFIG_FILE}: {name} must be an object")
    for key, entry in value.items():
        if not PLAIN_NAME.fullmatch(key):
            raise AdapterError(f"{CONFIG_FILE}: {name} {key!r:.100} is a regular expression; only names are supported")
        yield key, entry


def _checked_rank(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise AdapterError(f"{CONFIG_FILE}: {name:.120} must be a rank from 1 to {MAX_RANK}, found {value!r:.100}")
    return value


def _checked_alpha(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(float(value)):  # type: ignore[arg-type]  # just checked
        raise AdapterError(f"{CONFIG_FILE}: {name:.120} must be a number, found {value!r:.100}")
    return float(value)  # type: ignore[arg-type]  # just checked


def _is_meant(module: str, key: str) -> bool:
    """Whether a pattern's key is the module's name or the end of it; behind "^" it is the whole name."""
    return module == key[1:] if key.startswith("^") else _ends(module, key)


def _ends(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")
