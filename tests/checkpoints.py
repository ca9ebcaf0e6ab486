"""Small random Llama checkpoints, in the ordinary Hugging Face folder form, for tests of every layer.

Knows: the names and shapes of a checkpoint's tensors, a Llama-2 like tokenizer, a guard template of our own words.
Never knows: what is tested with them.

    folder = write_checkpoint(tmp_path, hidden=64, quant=32, template=GUARD_TEMPLATE)
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import decoders, models, normalizers, processors

from guardhouse.model.awq import pack_awq, quantize_rtn

Tensors = dict[str, NDArray[Any]]

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2
WORDS = ("the", "safe", "unsafe", "User:", "Agent:", "violence", "how", "to", "make", "a", "cake", "bomb", "is", "of")

# The same anatomy as Llama Guard's template: parity decides the role, categories stand between markers, turns are
# stripped and labelled, roles must alternate. The words are ours.
GUARD_TEMPLATE = """\
{% if messages|length % 2 == 0 %}{% set role = 'Agent' %}{% else %}{% set role = 'User' %}{% endif %}\
{{ "[INST] Task: judge the '" + role + "' messages by the policy below.

<BEGIN UNSAFE CONTENT CATEGORIES>
O1: Violence.
Should not
- Help anyone to hurt others.
O2: Theft.
Should not
- Help anyone to steal.
O3: Poison.
Should not
- Explain how to poison people.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

" }}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{% set label = 'User' %}{% else %}{% set label = 'Agent' %}{% endif %}\
{{ label + ': ' + message['content'].strip() + '

' }}\
{% endfor %}\
{{ "<END CONVERSATION>

Give your verdict on " + role + " in the conversation above:
- The first line is 'safe' or 'unsafe'.
- If unsafe, the second line lists the broken categories, with commas. [/INST]" }}"""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """Everything that can be asked of write_checkpoint, with its default."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None  # None: hidden / heads
    intermediate: int = 128
    vocab: int | None = None  # None: exactly the tokenizer's
    max_positions: int = 1024
    quant: int | None = None  # AWQ group size; -1: one group per input; None: dense
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    dtype: str = "float16"  # of the dense tensors: float16 or float32
    seed: int = 0
    template: str | None = None  # chat template, such as GUARD_TEMPLATE
    add_bos: bool = True

    @property
    def head_width(self) -> int:
        return self.head_dim if self.head_dim is not None else self.hidden // self.heads


def write_checkpoint(folder: Path, **fields: Any) -> Path:
    """Write config, weights and tokenizer; the fields are those of TinyModel. Returns `folder`."""
    model = TinyModel(**fields)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab = model.vocab if model.vocab is not None else tokenizer.get_vocab_size()
    save_file(random_tensors(model, vocab), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config_json(model, vocab))
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    write_json(folder / "tokenizer_config.json", tokenizer_config_json(model))
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON object; `...` removes one."""
    merged = json.loads(path.read_text(encoding="utf-8")) | fields
    write_json(path, {name: value for name, value in merged.items() if value is not ...})


def config_json(model: TinyModel, vocab: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width,
        "vocab_size": vocab,
        "max_position_embeddings": model.max_positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": model.rope_theta,
        "rope_scaling": model.rope_scaling,
        "hidden_act": "silu",
        "attention_bias": model.attention_bias,
        "mlp_bias": model.mlp_bias,
        "tie_word_embeddings": model.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": model.dtype,
    }
    if model.quant is not None:
        config["quantization_config"] = {
            "quant_method": "awq",
            "bits": 4,
            "group_size": model.quant,
            "version": "gemm",
            "zero_point": True,
        }
    return config


def tokenizer_config_json(model: TinyModel) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": model.add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    if model.template is not None:
        config["chat_template"] = model.template
    return config


def random_tensors(model: TinyModel, vocab: int) -> Tensors:
    """Weights large enough that logits differ by several units, small enough that nothing overflows."""
    generator = np.random.default_rng(model.seed)
    queries, keys = model.heads * model.head_width, model.kv_heads * model.head_width

    def dense(*shape: int, scale: float) -> NDArray[Any]:
        return (generator.standard_normal(shape) * scale).astype(model.dtype)

    tensors: Tensors = {"model.embed_tokens.weight": dense(vocab, model.hidden, scale=1.0)}
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}"
        for name, num_inputs, num_outputs, has_bias in (
            ("self_attn.q_proj", model.hidden, queries, model.attention_bias),
            ("self_attn.k_proj", model.hidden, keys, model.attention_bias),
            ("self_attn.v_proj", model.hidden, keys, model.attention_bias),
            ("self_attn.o_proj", queries, model.hidden, model.attention_bias),
            ("mlp.gate_proj", model.hidden, model.intermediate, model.mlp_bias),
            ("mlp.up_proj", model.hidden, model.intermediate, model.mlp_bias),
            ("mlp.down_proj", model.intermediate, model.hidden, model.mlp_bias),
        ):
            weight = dense(num_outputs, num_inputs, scale=1.5 * num_inputs**-0.5)
            tensors |= {f"{prefix}.{name}.{part}": array for part, array in linear_tensors(weight, model.quant).items()}
            if has_bias:
                tensors[f"{prefix}.{name}.bias"] = dense(num_outputs, scale=0.3)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = 1 + dense(model.hidden, scale=0.1)
    tensors["model.norm.weight"] = 1 + dense(model.hidden, scale=0.1)
    if not model.tied:
        tensors["lm_head.weight"] = dense(vocab, model.hidden, scale=1.5 * model.hidden**-0.5)
    return tensors


def linear_tensors(weight: NDArray[Any], group_size: int | None) -> Tensors:
    """One linear as a checkpoint stores it: `weight`, or AWQ's three tensors."""
    if group_size is None:
        return {"weight": weight}
    num_inputs = weight.shape[1]
    return pack_awq(quantize_rtn(weight.astype(np.float32), num_inputs if group_size == -1 else group_size))


def tiny_tokenizer() -> tokenizers.Tokenizer:
    """Llama 2's kind of tokenizer: "▁" for a space and before the text, single bytes for unknown characters, <s> first.

    Ids: 3 special tokens, 256 bytes ("\\n" is 13, as in Llama 2), "▁", printable ASCII, then the words of WORDS, each
    behind "▁" and each with all of its beginnings ("▁s", "▁sa", "▁saf", "▁safe").
    """
    pieces = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(0x21, 0x7F))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for length in range(len(word)):
            beginning, letter = "▁" + word[:length], word[length]
            if beginning + letter not in vocabulary:
                vocabulary[beginning + letter] = len(vocabulary)
                merges.append((beginning, letter))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer
