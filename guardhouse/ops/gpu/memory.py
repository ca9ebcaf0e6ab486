"""What fits the device's memory: weights first, then the largest step, and the KV cache gets the rest.

Knows: free and total bytes, how much a step takes at most.
Never knows: tensors, what the weights are called.
"""

from collections.abc import Callable

import torch

from guardhouse.errors import BackendError
from guardhouse.ops.gpu.attention import SPAN
from guardhouse.ops.gpu.steps import CAPACITY, MAX_RECORDED_TOKENS
from guardhouse.ops.table import StepSize

SLACK_BYTES = 512 << 20  # compiled kernels, fragments of the allocator, parts of products
ReadMemory = Callable[[], tuple[int, int]]  # free and total bytes


class DeviceMemory:
    """Answers before memory is taken, so that what does not fit is refused in words."""

    def __init__(self, read: ReadMemory) -> None:
        self._read = read
        self._placed_bytes = 0

    def place(self, num_bytes: int) -> None:
        """Note that weights are about to be brought to the device. Raises BackendError where they do not fit."""
        free, _ = self._read()
        if num_bytes > free:
            raise self.too_small(num_bytes)
        self._placed_bytes += num_bytes

    def too_small(self, num_bytes: int) -> BackendError:
        """The error for weights of this size that find no room."""
        free, total = self._read()
        return BackendError(
            f"the weights do not fit the GPU's memory: {_mib(self._placed_bytes)} of them are there, {_mib(num_bytes)} more"
            f" are needed, and of its {_mib(total)} only {_mib(free)} are free; do other processes use it?"
        )

    def left_for_cache(self, largest: StepSize) -> int:
        """Bytes that a KV cache may take."""
        free, _ = self._read()
        return max(0, free - SLACK_BYTES - 4 * CAPACITY - reserve(largest))


def reserve(largest: StepSize) -> int:
    """Bytes for steps up to this size: one that runs, and one whose recordings keep their memory."""
    recorded = min(largest.num_tokens, MAX_RECORDED_TOKENS)
    return step_bytes(largest, largest.num_tokens) + step_bytes(largest, recorded)


def step_bytes(size: StepSize, num_tokens: int) -> int:
    """All float32 arrays of a layer, as if they were alive at once, and the logits."""
    layout = size.layout
    queries = layout.num_heads * layout.head_dim
    qkv = queries + 2 * layout.num_kv_heads * layout.head_dim
    spans = -(-size.context // SPAN) * layout.num_heads * (layout.head_dim + 2)
    per_token = 3 * size.hidden + qkv + spans + queries + 3 * size.intermediate
    codes = max(size.hidden, size.intermediate) * 2  # int8 codes and what belongs to them, or float16 copies
    return 4 * (num_tokens * per_token + size.num_rows * size.vocab) + num_tokens * codes


def read_cuda_memory(device: torch.device) -> ReadMemory:
    """What torch can still take: the device's free memory, and what torch holds but does not use."""

    def read() -> tuple[int, int]:
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + held, total

    return read


def _mib(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB"
