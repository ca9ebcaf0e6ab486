"""A small Llama in torch, equal in mathematics and tensor names to transformers' LlamaForCausalLM.

It grows from the top: trained first with one layer, whose answers need one attention at the last positions and so cost
little, then with more layers below, which begin as the identity.

Knows: token ids, weights, one constant prompt head that a whole batch shares.
Never knows: texts, labels, files.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

WeightMap = Callable[[Tensor], Tensor]  # e.g. a 4-bit rounding with a straight-through gradient
Rope = tuple[Tensor, Tensor]  # cos and sin, [positions, head_dim] or what broadcasts alike


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of the embedded guard."""

    vocab_size: int = 14336
    hidden_size: int = 256
    intermediate_size: int = 512  # 8 groups of 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 4
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

    def queries(self, x: Tensor, rope: Rope) -> Tensor:
        """[batch, tokens, hidden] -> [batch, heads, tokens, head_dim], rotated."""
        return rotate(self._heads(self.q_proj(x)), rope)

    def keys_and_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """[batch, tokens, hidden] -> keys, rotated, and values, each [batch, key heads, tokens, head_dim]."""
        return rotate(self._heads(self.k_proj(x)), rope), self._heads(self.v_proj(x))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        repeat = self.shape.num_heads // self.shape.num_kv_heads
        keys, values = keys.repeat_interleave(repeat, dim=1), values.repeat_interleave(repeat, dim=1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.shape.head_dim).transpose(1, 2)


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
        attention, normed_head, normed = self.self_attn, self.input_layernorm(head), self.input_layernorm(x)
        head_kv = attention.keys_and_values(normed_head, geometry.head_rope)
        keys, values = self._behind(head_kv, attention.keys_and_values(normed, geometry.rope))
        head_q, q = attention.queries(normed_head, geometry.head_rope), attention.queries(normed, geometry.rope)
        head = head + attention.attend(head_q, *head_kv, geometry.head_mask)
        x = x + attention.attend(q, keys, values, geometry.mask)
        return self.think(head), self.think(x)

    def forward_at(self, head: Tensor, x: Tensor, geometry: "Geometry", positions: Tensor) -> Tensor:
        """As `forward`, for some `positions` [batch, P] of the batch only -> [batch, P, hidden]."""
        attention, normed_head, normed = self.self_attn, self.input_layernorm(head), self.input_layernorm(x)
        head_kv = attention.keys_and_values(normed_head, geometry.head_rope)
        keys, values = self._behind(head_kv, attention.keys_and_values(normed, geometry.rope))
        q = attention.queries(_pick(normed, positions), geometry.rope_at(positions))
        return self.think(_pick(x, positions) + attention.attend(q, keys, values, geometry.mask_at(positions)))

    def think(self, x: Tensor) -> Tensor:
        """The layer's second half."""
        return x + self.mlp(self.post_attention_layernorm(x))

    @staticmethod
    def _behind(head: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of the shared head before each sequence's own."""
        keys, values = (torch.cat([h.expand(len(o), -1, -1, -1), o], 2) for h, o in zip(head, own, strict=True))
        return keys, values


@dataclass(frozen=True, slots=True)
class Geometry:
    """Rotations and causal masks of a head of H tokens followed by T tokens."""

    head_rope: Rope
    rope: Rope
    head_mask: Tensor  # [H, H], True where a query sees a key
    mask: Tensor  # [T, H + T]

    @classmethod
    def of(cls, shape: LlamaShape, num_head_tokens: int, num_tokens: int) -> "Geometry":
        total = num_head_tokens + num_tokens
        cos, sin = rope_tables(shape, total)
        causal = torch.ones(total, total, dtype=torch.bool).tril()
        cut = num_head_tokens
        return cls((cos[:cut], sin[:cut]), (cos[cut:], sin[cut:]), causal[:cut, :cut], causal[cut:])

    def rope_at(self, positions: Tensor) -> Rope:
        """[batch, P] -> rotations that broadcast over heads."""
        cos, sin = self.rope
        return cos[positions][:, None], sin[positions][:, None]

    def mask_at(self, positions: Tensor) -> Tensor:
        """[batch, P] -> [batch, 1, P, H + T]"""
        return self.mask[positions][:, None]


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
        for layer in self.model["layers"]:
            _initialise(layer)

    def grow(self) -> None:
        """One layer more, below the others, that changes nothing yet."""
        self.shape = replace(self.shape, num_layers=self.shape.num_layers + 1)
        self.model["layers"] = nn.ModuleList([Block(self.shape), *self.model["layers"]])
        _initialise(self.model["layers"][0])

    def linears(self) -> dict[str, Linear]:
        """Every weight that is quantised, by its checkpoint name without `.weight`."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Linear)}

    def forward(self, head_ids: Tensor, ids: Tensor, positions: Tensor) -> Tensor:
        """A head [H] shared by the batch [B, T] of what follows it -> normed hidden states at positions [B, P] of it."""
        geometry = Geometry.of(self.shape, len(head_ids), ids.shape[1])
        embed = self.model["embed_tokens"]
        head, x = embed(head_ids)[None], embed(ids)
        *lower, last = self.model["layers"]
        for layer in lower:
            head, x = layer(head, x, geometry)
        normed: Tensor = self.model["norm"](last.forward_at(head, x, geometry, positions))
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocab]."""
        return functional.linear(hidden, self.model["embed_tokens"].weight)


def _initialise(block: Block) -> None:
    """It begins as the identity."""
    for module in block.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for projection in (block.self_attn.o_proj, block.mlp.down_proj):
        projection.weight.data.zero_()


def _pick(x: Tensor, positions: Tensor) -> Tensor:
    """[batch, tokens, hidden] at [batch, P] -> [batch, P, hidden]"""
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[2]))


def rope_tables(shape: LlamaShape, num_positions: int) -> Rope:
    """cos and sin, [positions, head_dim]; dimension i pairs with i + head_dim / 2."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.arange(num_positions).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
