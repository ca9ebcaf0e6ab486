"""How much a guard may hold at once: its window and its KV cache.

Knows: a model's shape, the settings, this machine's memory.
Never knows: requests, texts.
"""

import os

from guardhouse.config import Settings
from guardhouse.engine.engine import EngineConfig
from guardhouse.errors import ConfigError
from guardhouse.model.llama_config import LlamaConfig
from guardhouse.ops.table import HeadLayout, Ops, StepSize

# Converters wrote 2048 into every Llama 1 and 2 checkpoint with the usual RoPE base; both Llama 2 and Llama Guard 7B were
# trained on 4096 (transformers 4.35, convert_llama_weights_to_hf.py).
CONVERTERS_WINDOW, TRAINED_WINDOW = 2048, 4096
LARGEST_DEFAULT_WINDOW = 8192  # later models claim 131,072; their cache would not fit where this runs by default
SEVEN_B_HIDDEN_SIZE = 4096
DEFAULT_STEP_TOKENS = 512
STEP_TOKENS = {"cuda": 2048}  # where they take 50 ms, and judge a fifth more messages per second (docs/cuda.md)
ROWS_PER_SEQUENCE = 2  # of logits in one step: a verdict reads two
DEFAULT_WINDOWS = 8  # whole windows that the cache holds by default, memory allowing
MEMORY_SHARE = 4  # at most a quarter of this machine's memory
BYTES_PER_VALUE = {"reference": 4}  # float32; the other backends keep float16


def window_of(config: LlamaConfig, settings: Settings) -> int:
    """Tokens of prompt and answer that fit the model."""
    if settings.max_model_len is not None:
        return settings.max_model_len
    if config.max_positions == CONVERTERS_WINDOW and config.hidden_size >= SEVEN_B_HIDDEN_SIZE:
        return TRAINED_WINDOW
    return min(config.max_positions, LARGEST_DEFAULT_WINDOW)


def engine_config(
    config: LlamaConfig, settings: Settings, window: int, ops: Ops, fingerprint: str = ""
) -> EngineConfig:
    """The engine's sizes: the settings' own, and a KV cache that fits: the device's free bytes, else this machine.

    `fingerprint`: of the checkpoint's weights; without it pinned prefixes are not saved.
    """
    num_tokens = settings.max_num_batched_tokens or STEP_TOKENS.get(ops.name, DEFAULT_STEP_TOKENS)
    free_bytes = ops.free_bytes(largest_step(config, settings.max_num_seqs, num_tokens, window))
    return EngineConfig(
        num_blocks=num_blocks_for(config, settings, window, ops.name, free_bytes),
        max_model_len=window,
        block_size=settings.block_size,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=num_tokens,
        target_step_s=settings.target_step_s,
        max_queue=settings.max_queue,
        model_fingerprint=fingerprint,
    )


def largest_step(config: LlamaConfig, num_seqs: int, num_tokens: int, window: int) -> StepSize:
    """What the scheduler may ask of the device in one step, with so many sequences and tokens at most."""
    return StepSize(
        num_tokens=num_tokens,
        num_rows=min(num_tokens, ROWS_PER_SEQUENCE * num_seqs),
        context=window,
        layout=HeadLayout(config.num_heads, config.num_kv_heads, config.head_dim),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocab=config.vocab_size,
    )


def num_blocks_for(
    config: LlamaConfig, settings: Settings, window: int, device: str, free_bytes: int | None = None
) -> int:
    """KV blocks. In a machine's own memory only those that were written take room; a device's are all taken at once."""
    values_per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    block_bytes = settings.block_size * values_per_token * BYTES_PER_VALUE.get(device, 2)
    least = -(-window * 3 // (2 * settings.block_size))  # one whole window, and pinned prefixes beside it
    needed_mib = -(-least * block_bytes >> 20)
    if settings.kv_cache_mib is not None:
        num_blocks = (settings.kv_cache_mib << 20) // block_bytes
        if num_blocks < least:
            raise ConfigError(f"kv_cache_mib must be at least {needed_mib} for a window of {window} tokens")
        return num_blocks
    if free_bytes is not None:
        most = min(settings.max_num_seqs * -(-window // settings.block_size), free_bytes // block_bytes)
        if most < least:
            raise ConfigError(
                f"the device has {free_bytes >> 20} MiB left for keys and values beside weights and steps, and a window of"
                f" {window} tokens needs {needed_mib}: lower max_model_len or max_num_batched_tokens"
            )
        return most
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = min(DEFAULT_WINDOWS * -(-window // settings.block_size), memory // MEMORY_SHARE // block_bytes)
    return max(most, least)
