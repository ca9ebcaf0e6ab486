"""One sequence of tokens on its way through the engine: what is known, computed, cached and wanted.

Knows: token ids as numbers, positions, block numbers.
Never knows: tensors, logits, futures, text, other sequences.

    tokens        |<---------- prompt ---------->|<-- generated -->|
    num_computed  |<- KV is in the cache ->|
                                           |<-- num_remaining ---->|
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import TypeAlias

from guardhouse.engine.request import Adapter

IntArray: TypeAlias = "array[int]"  # C ints: 4 bytes each, compared and copied at memory speed

ROOT_CONTENT = 0  # the content that comes before the first block of a sequence; under an adapter, a negative number


class Sequence:
    """The state of one sequence. Invariant: `block_table` covers at least the first `num_computed` tokens."""

    __slots__ = (
        "_next_wanted",
        "adapter",
        "block_table",
        "id",
        "last_content",
        "num_cached_tokens",
        "num_computed",
        "num_expected_cached",
        "num_pinned_blocks",
        "num_prompt_tokens",
        "num_published_blocks",
        "root_content",
        "tokens",
        "wanted_positions",
        "wants_last",
    )

    def __init__(
        self,
        sequence_id: int,
        tokens: IntArray,
        wanted_positions: Iterable[int] = (),
        *,
        wants_last: bool,
        adapter: Adapter | None = None,
        root_content: int = ROOT_CONTENT,
    ) -> None:
        """`wanted_positions`: prompt tokens whose logits are reported; `wants_last`: those of the newest token, too.

        `root_content`: what the prefix cache calls the nothing before the first token. Keys and values differ under an
        adapter, so each adapter has a root of its own, and no block is ever shared across adapters.
        """
        self.adapter = adapter
        self.root_content = root_content
        self.id = sequence_id  # order of arrival
        self.tokens = tokens  # prompt, then what was generated
        self.num_prompt_tokens = len(tokens)
        self.wanted_positions = sorted(set(wanted_positions))
        self.wants_last = wants_last
        self._next_wanted = 0  # index of the first wanted position that was not computed yet
        self.num_expected_cached = 0  # while waiting: how many tokens the cache would have spared, as last looked up
        self.num_cached_tokens: int | None = None  # prompt tokens found in the cache when it first ran
        self.num_computed = 0
        self.block_table = array("i")
        self.num_pinned_blocks = 0  # leading blocks that belong to a pinned prefix; the sequence owns the others
        self.num_published_blocks = 0  # leading blocks that the prefix cache knows, here or as an equal block
        self.last_content = root_content  # what the prefix cache calls the content up to the last of them

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_remaining(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def num_expected_remaining(self) -> int:
        """The same, counting what the cache is expected to spare a waiting sequence."""
        return len(self.tokens) - max(self.num_computed, self.num_expected_cached)

    @property
    def num_cacheable(self) -> int:
        """How many leading tokens may come from the cache: all before the first whose logits are still wanted."""
        last = len(self.tokens) - 1
        if self._next_wanted < len(self.wanted_positions):
            return min(last, self.wanted_positions[self._next_wanted])
        return last

    def row_positions(self, num_new_tokens: int) -> list[int]:
        """Ascending positions among the next `num_new_tokens` whose logits are needed."""
        end = self.num_computed + num_new_tokens
        stop = bisect_left(self.wanted_positions, end, self._next_wanted)
        positions = self.wanted_positions[self._next_wanted : stop]
        if self.wants_last and end == len(self.tokens) and end - 1 not in positions[-1:]:
            positions.append(end - 1)
        return positions

    def advance(self, num_new_tokens: int) -> None:
        """Note that the next tokens' keys, values and wanted logits were computed."""
        self.num_computed += num_new_tokens
        self._next_wanted = bisect_left(self.wanted_positions, self.num_computed, self._next_wanted)

    def block_key(self, index: int, block_size: int) -> bytes:
        """The tokens of one full block, as bytes: equal exactly when the tokens are."""
        return self.tokens[index * block_size : (index + 1) * block_size].tobytes()

    def reset(self) -> None:
        """Forget what was computed (its blocks are gone); tokens and logits that were delivered stay delivered."""
        self.num_computed = 0
        self.block_table = array("i")
        self.num_pinned_blocks = 0
        self.num_published_blocks = 0
        self.last_content = self.root_content
