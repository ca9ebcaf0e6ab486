"""A Hugging Face folder with a Llama in it: every tensor checked before it is used.

Knows: config.json, safetensors files, and the tensors that a Llama of that shape must hold.
Never knows: backends, packed layouts, tokenizers, text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.errors import CheckpointError
from guardhouse.model.awq import concatenate_biases, concatenate_outputs, dequantize, unpack_awq
from guardhouse.model.layout import (
    EMBEDDING,
    HEAD,
    TensorSpec,
    expected_tensors,
    head_linear,
    is_ignored,
    layer_linears,
)
from guardhouse.model.llama_config import AwqConfig, LlamaConfig, RopeScaling, read_config
from guardhouse.model.tensor_files import TensorEntry, find_tensors, fingerprint, map_tensor, read_tensor
from guardhouse.ops.table import DenseWeight, Float32, Int4Weight

__all__ = ["AwqConfig", "Checkpoint", "LlamaConfig", "RopeScaling", "read_config"]


class Checkpoint:
    """An opened folder. Invariant: each tensor that `config` calls for is there, with the right shape and format.

    >>> checkpoint = Checkpoint.open(Path("llamaguard-7b"))                     # doctest: +SKIP
    >>> checkpoint.linear("model.layers.0.self_attn.q_proj").codes.shape        # doctest: +SKIP
    (4096, 4096)
    """

    def __init__(self, config: LlamaConfig, tensors: Mapping[str, TensorEntry], fingerprint: str) -> None:
        self.config = config
        self.fingerprint = fingerprint  # 32 hex digits: what caches of these weights are keyed by
        self._tensors = tensors
        linears = [linear for layer in range(config.num_layers) for linear in layer_linears(config, layer)]
        self._linears = {linear.name: linear for linear in [*linears, head_linear(config)]}

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Check configuration, headers, names, shapes and formats; weights are not read yet."""
        config = read_config(folder)
        tensors = find_tensors(folder)
        check_tensors(tensors, list(expected_tensors(config)), config.tie_word_embeddings)
        return cls(config, tensors, fingerprint((folder / "config.json").read_bytes(), tensors))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(entry.num_bytes for entry in self._tensors.values())

    @property
    def num_parameters(self) -> int:
        """Weights of the model, however they are stored; a tied table counts once."""
        linears = sum(linear.in_features * linear.out_features for linear in self._linears.values())
        biases = sum(linear.out_features for linear in self._linears.values() if linear.has_bias)
        norms = (2 * self.config.num_layers + 1) * self.config.hidden_size
        table = 0 if self.config.tie_word_embeddings else self.config.vocab_size * self.config.hidden_size
        return linears + biases + norms + table

    def tensor(self, name: str) -> NDArray[Any]:
        """A copy in memory (bfloat16 as float32), free of NaN and infinities."""
        values = read_tensor(self._tensors[name])
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CheckpointError(f"{name}: holds NaN or infinite values")
        return values

    def vector(self, name: str) -> Float32:
        """A norm's weight or a bias."""
        return self.tensor(name).astype(np.float32, copy=False)

    def embedding(self) -> DenseWeight:
        """The embedding table, left on disk where its format allows (float16, float32)."""
        return DenseWeight(map_tensor(self._tensors[f"{EMBEDDING}.weight"]))

    @property
    def is_embedding_mapped(self) -> bool:
        """True where `embedding` costs no memory, so that no cache need hold it."""
        return self._tensors[f"{EMBEDDING}.weight"].dtype != "BF16"

    def head(self) -> DenseWeight:
        """The LM head; where it is tied, the embedding table."""
        return self.embedding() if self.config.tie_word_embeddings else DenseWeight(self.tensor(f"{HEAD}.weight"))

    def linear(self, name: str) -> Int4Weight | DenseWeight:
        """One linear of a decoder layer, e.g. `model.layers.0.mlp.up_proj`."""
        spec = self._linears[name]
        bias = self.vector(f"{name}.bias") if spec.has_bias else None
        if spec.group_size is None:
            return DenseWeight(self.tensor(f"{name}.weight"), bias)
        zeros = self.tensor(f"{name}.qzeros") if f"{name}.qzeros" in self._tensors else None
        return unpack_awq(self.tensor(f"{name}.qweight"), zeros, self.tensor(f"{name}.scales"), bias)

    def fused(self, names: Sequence[str]) -> Int4Weight | DenseWeight:
        """Linears that read the same input, as one. Where only some are quantised, all become dense."""
        weights = [self.linear(name) for name in names]
        quantised = [weight for weight in weights if isinstance(weight, Int4Weight)]
        if len(quantised) == len(weights):
            return concatenate_outputs(quantised)
        dense = [dequantize(weight) if isinstance(weight, Int4Weight) else weight for weight in weights]
        return DenseWeight(
            np.concatenate([weight.weight for weight in dense]), concatenate_biases([weight.bias for weight in dense])
        )


def check_tensors(tensors: Mapping[str, TensorEntry], specs: Sequence[TensorSpec], is_tied: bool) -> None:
    """Every tensor that is called for is there as it should be, and nothing else is: a stray bias is not overlooked."""
    for spec in specs:
        if spec.name in tensors:
            _check_tensor(spec, tensors[spec.name])
        elif not spec.is_optional:
            raise CheckpointError(f"{spec.name}: expected {_describe(spec)}, found no such tensor")
    known = {spec.name for spec in specs} | ({f"{HEAD}.weight"} if is_tied else set())
    for name in tensors:
        if name not in known and not is_ignored(name):
            raise CheckpointError(f"{name}: a tensor that config.json does not account for")


def _check_tensor(spec: TensorSpec, entry: TensorEntry) -> None:
    if entry.shape != spec.shape or entry.dtype not in spec.dtypes:
        raise CheckpointError(f"{spec.name}: expected {_describe(spec)}, found {entry.dtype} {list(entry.shape)}")


def _describe(spec: TensorSpec) -> str:
    return f"{' or '.join(spec.dtypes)} {list(spec.shape)}"
