"""Blocks of a KV cache that is made of numpy arrays: what `reference` and `cpu` share.

Knows: the cache's layout, [layers, num_blocks, kv_heads, block_size, head_dim].
Never knows: sequences, which blocks are in use.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from guardhouse.ops.table import HeadLayout, Int32, KVCache


def allocate_cache(shape: tuple[int, int], layout: HeadLayout, block_size: int, dtype: type[np.floating]) -> KVCache:
    """`shape` is (layers, blocks). np.zeros leaves it to the system to commit a page when it is first written."""
    full_shape = (*shape, layout.num_kv_heads, block_size, layout.head_dim)
    return KVCache(np.zeros(full_shape, dtype), np.zeros(full_shape, dtype), block_size)


def copy_block(cache: KVCache, source: int, target: int) -> None:
    """In every layer."""
    for array in (cache.keys, cache.values):
        array[:, target] = array[:, source]


def export_blocks(cache: KVCache, layer: int, blocks: Int32) -> tuple[NDArray[Any], NDArray[Any]]:
    """Copies, [len(blocks), kv_heads, block_size, head_dim] each."""
    return cache.keys[layer, blocks], cache.values[layer, blocks]


def import_blocks(cache: KVCache, layer: int, blocks: Int32, keys: NDArray[Any], values: NDArray[Any]) -> None:
    """The inverse of export_blocks."""
    expected = (len(blocks), *cache.keys.shape[2:])
    assert keys.shape == values.shape == expected, f"blocks of shape {keys.shape}, expected {expected}"
    cache.keys[layer, blocks] = keys
    cache.values[layer, blocks] = values
