"""How much a guard may hold at once: its window and its KV cache.

Knows: a model's shape, the settings, this machine's memory.
Never knows: requests, texts.
"""

import os

from guardhouse.config import Settings
from guardhouse.errors import ConfigError
from guardhouse.model.checkpoint import LlamaConfig

# Converters wrote 2048 into every Llama 1 and 2 checkpoint with the usual RoPE base; both Llama 2 and Llama Guard 7B were
# trained on 4096 (transformers 4.35, convert_llama_weights_to_hf.py).
CONVERTERS_WINDOW, TRAINED_WINDOW = 2048, 4096
LARGEST_DEFAULT_WINDOW = 8192  # later models claim 131,072; their cache would not fit where this runs by default
SEVEN_B_HIDDEN_SIZE = 4096
DEFAULT_WINDOWS = 8  # whole windows that the cache holds by default, memory allowing
MEMORY_SHARE = 4  # at most a quarter of this machine's memory
BYTES_PER_VALUE = 4  # float32 in the reference; the C kernels' float16 needs half of it


def window_of(config: LlamaConfig, settings: Settings) -> int:
    """Tokens of prompt and answer that fit the model."""
    if settings.max_model_len is not None:
        return settings.max_model_len
    if config.max_positions == CONVERTERS_WINDOW and config.hidden_size >= SEVEN_B_HIDDEN_SIZE:
        return TRAINED_WINDOW
    return min(config.max_positions, LARGEST_DEFAULT_WINDOW)


def num_blocks_for(config: LlamaConfig, settings: Settings, window: int) -> int:
    """KV blocks; memory is only committed for those that were written."""
    values_per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    block_bytes = settings.block_size * values_per_token * BYTES_PER_VALUE
    if settings.kv_cache_mib is not None:
        num_blocks = (settings.kv_cache_mib << 20) // block_bytes
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        num_blocks = min(DEFAULT_WINDOWS * -(-window // settings.block_size), memory // MEMORY_SHARE // block_bytes)
    if num_blocks < 1:
        raise ConfigError("kv_cache_mib is too small for a single block")
    return num_blocks
