"""A small Llama in torch, equal in mathematics and tensor names to transformers' LlamaForCausalLM.

Knows: token ids, weights, one constant prompt head that a whole batch shares.
Never knows: texts, labels, files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

WeightMap = Callable[[Tensor], Tensor]  # e.g. a 4-bit rounding with a straight-through gradient


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of the embedded guard."""

    vocab_size: int = 14336
    hidden_size: int = 256
    intermediate_size: int = 384  # 6 groups of 64
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    max_positions: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


class Linear(nn.Linear):
    """A linear without bias whose weight may be seen through a map while it is trained."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.weight_map: WeightMap | None = None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.weight_map is None else self.weight_map(self.weight)
        return functional.linear(x, weight)


class Attention(nn.Module):
    """Grouped-query attention over a shared head (batch 1) and the batch's own tokens."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.num_kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden_size, shape.hidden_size)
        self.k_proj = Linear(shape.hidden_size, width)
        self.v_proj = Linear(shape.hidden_size, width)
        self.o_proj = Linear(shape.hidden_size, shape.hidden_size)

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, tokens, hidden] -> queries, keys, values, each [batch, heads, tokens, head_dim], rotated."""
        batch, tokens, _ = x.shape
        queries, keys, values = (
            projection(x).view(batch, tokens, -1, self.shape.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return rotate(queries, rope), rotate(keys, rope), values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        repeat = self.shape.num_heads // self.shape.num_kv_heads
        keys, values = keys.repeat_interleave(repeat, dim=1), values.repeat_interleave(repeat, dim=1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, head: Tensor, x: Tensor, geometry: "Geometry") -> tuple[Tensor, Tensor]:
        """The head [1, head tokens, hidden] and the batch [batch, tokens, hidden], one layer on."""
        attention = self.self_attn
        head_q, head_k, head_v = attention.project(self.input_layernorm(head), geometry.head_rope)
        q, k, v = attention.project(self.input_layernorm(x), geometry.rope)
        k = torch.cat([head_k.expand(len(x), -1, -1, -1), k], dim=2)
        v = torch.cat([head_v.expand(len(x), -1, -1, -1), v], dim=2)
        head = head + attention.attend(head_q, head_k, head_v, geometry.head_mask)
        x = x + attention.attend(q, k, v, geometry.mask)
        head = head + self.mlp(self.post_attention_layernorm(head))
        return head, x + self.mlp(self.post_attention_layernorm(x))


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rotations and causal masks of a head of H tokens followed by T tokens."""

    head_rope: tuple[Tensor, Tensor]
    rope: tuple[Tensor, Tensor]
    head_mask: Tensor  # [H, H], True where a query sees a key
    mask: Tensor  # [T, H + T]

    @classmethod
    def of(cls, shape: LlamaShape, num_head_tokens: int, num_tokens: int) -> "Geometry":
        total = num_head_tokens + num_tokens
        cos, sin = rope_tables(shape, total)
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        cut = num_head_tokens
        return cls((cos[:cut], sin[:cut]), (cos[cut:], sin[cut:]), causal[:cut, :cut], causal[cut:])


class Llama(nn.Module):
    """The decoder. Parameter names are those of LlamaForCausalLM; the LM head is the embedding table."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(shape.vocab_size, shape.hidden_size),
                "layers": nn.ModuleList(Block(shape) for _ in range(shape.num_layers)),
                "norm": nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps),
            }
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for layer in self.model["layers"]:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.data.zero_()  # every block begins as the identity

    def linears(self) -> dict[str, Linear]:
        """Every weight that is quantised, by its checkpoint name without `.weight`."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Linear)}

    def forward(self, head_ids: Tensor, ids: Tensor) -> Tensor:
        """A head [H] shared by the batch [B, T] of what follows it -> normed hidden states [B, T, hidden]."""
        geometry = Geometry.of(self.shape, len(head_ids), ids.shape[1])
        embed = self.model["embed_tokens"]
        head, x = embed(head_ids)[None], embed(ids)
        for layer in self.model["layers"]:
            head, x = layer(head, x, geometry)
        normed: Tensor = self.model["norm"](x)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocab]."""
        return functional.linear(hidden, self.model["embed_tokens"].weight)


def rope_tables(shape: LlamaShape, num_positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin, [positions, head_dim]; dimension i pairs with i + head_dim / 2."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.arange(num_positions).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
