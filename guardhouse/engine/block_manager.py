"""Who owns which block of the KV cache.

Knows: block numbers, reference counts, which sequences share what.
Never knows: tensors, devices, scheduling, text.

A block is always in exactly one of these places:

    _free        no owner, not in the prefix cache   handed out first, lowest number first: touches the least memory
    _evictable   no owner, in the prefix cache       handed out last, least recently used first
    owned        by sequences and pins               never handed out

A sequence that starts with a pinned prefix does not own the prefix's full blocks: the pin does, for good.
"""

from array import array
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from guardhouse.engine.prefix_cache import Match, PrefixCache
from guardhouse.engine.sequence import ROOT_CONTENT, IntArray, Sequence


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy block `source` to `target` before the next step; `source` is owned until `BlockManager.end_copy`."""

    source: int
    target: int


class BlockManager:
    """Hands out, shares and takes back blocks. Its invariant stands in this file's head."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_owners = [0] * num_blocks
        self._free = list(range(num_blocks))  # a heap
        self._evictable: dict[int, None] = {}  # oldest first
        self._cache = PrefixCache(block_size)
        self._pins: dict[bytes, IntArray] = {}  # tokens -> blocks
        self._pinned: set[int] = set()

    @property
    def num_free_blocks(self) -> int:
        return len(self._free) + len(self._evictable)

    @property
    def num_pinned_blocks(self) -> int:
        return len(self._pinned)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def num_cached_tokens(self, sequence: Sequence) -> int:
        """How many of the sequence's tokens would come from the cache if it were allocated now."""
        return self._cache.match(sequence).num_tokens

    def allocate(self, sequence: Sequence, num_spare: int = 0, *, use_cache: bool = True) -> list[Copy] | None:
        """Give a sequence blocks for all its tokens, shared where cached. None, if under `num_spare` would stay free.

        The returned copies are to be made before the next step, and each is to be ended with `end_copy`.
        """
        match = self._cache.match(sequence) if use_cache else Match([], sequence.root_content, 0)
        if match.copy_source is not None and not self._has_room(sequence, match, num_spare):
            match = replace(match, num_tokens=len(match.blocks) * self.block_size, copy_source=None)
        if not self._has_room(sequence, match, num_spare):
            return None
        for block in match.blocks[match.num_pinned_blocks :]:
            self._take(block)
        if match.copy_source is not None:
            self._take(match.copy_source)
        table = array("i", match.blocks)
        for _ in range(self.blocks_for(sequence.num_tokens) - len(table)):
            table.append(self._new_block())
        sequence.block_table = table
        sequence.num_pinned_blocks = match.num_pinned_blocks
        sequence.num_published_blocks = len(match.blocks)
        sequence.last_content = match.content
        sequence.num_computed = match.num_tokens
        return [] if match.copy_source is None else [Copy(match.copy_source, table[len(match.blocks)])]

    def end_copy(self, copy: Copy) -> None:
        self._release(copy.source)

    def grow(self, sequence: Sequence) -> bool:
        """Make sure that the newest token has a slot. False, and no change, if no block is free."""
        if len(sequence.block_table) * self.block_size >= sequence.num_tokens:
            return True
        if not self.num_free_blocks:
            return False
        sequence.block_table.append(self._new_block())
        return True

    def publish(self, sequence: Sequence) -> None:
        """Let others share the sequence's full blocks, as far as they have been computed."""
        for index in range(sequence.num_published_blocks, sequence.num_computed // self.block_size):
            key = (sequence.last_content, sequence.block_key(index, self.block_size))
            block = self._cache.find(key)
            if block is None:  # otherwise an equal block was published meanwhile: ours stays private
                block = sequence.block_table[index]
                self._cache.add(block, key)
            sequence.last_content = self._cache.content(block)
            sequence.num_published_blocks = index + 1

    def free(self, sequence: Sequence) -> None:
        """Take a sequence's blocks back, the last as the first to be evicted: prefixes outlive what follows them."""
        for block in reversed(sequence.block_table[sequence.num_pinned_blocks :]):
            self._release(block)
        sequence.reset()

    def distrust(self, sequence: Sequence) -> None:
        """Let nobody else find the sequence's blocks, whose contents may be bad. Pins stay: they were checked."""
        for block in sequence.block_table:
            if block not in self._pinned:
                self._discard(block)

    def is_pinned(self, tokens: IntArray) -> bool:
        return tokens.tobytes() in self._pins

    def pin(self, sequence: Sequence) -> None:
        """Keep a fully computed sequence's blocks for good; the pin owns them in its place."""
        assert sequence.adapter is None, "an adapter's prefixes come and go with it"
        tokens = sequence.tokens.tobytes()
        if tokens in self._pins:
            self.free(sequence)
            return
        content = ROOT_CONTENT
        table = sequence.block_table
        num_full = sequence.num_tokens // self.block_size
        for index in range(sequence.num_pinned_blocks):  # those of another pin get one more owner
            self._take(table[index])
        for index in range(num_full):
            table[index] = self._listed(table[index], (content, sequence.block_key(index, self.block_size)))
            content = self._cache.content(table[index])
        if num_full < len(table):
            self._cache.add_tail(table[num_full], content, sequence.tokens[num_full * self.block_size :])
        self._cache.add_pin(tokens[: num_full * self.block_size * table.itemsize], list(table[:num_full]), content)
        self._pins[tokens] = table
        self._pinned.update(table)
        sequence.reset()

    def check_idle(self) -> None:
        """Cheap check while no sequence owns blocks: whatever is not pinned is free."""
        if self.num_free_blocks + self.num_pinned_blocks != self.num_blocks:
            counts = f"{self.num_free_blocks} free and {self.num_pinned_blocks} pinned of {self.num_blocks}"
            raise RuntimeError(f"KV blocks leaked: {counts}")

    def check_no_leaks(self, sequences: tuple[Sequence, ...] = ()) -> None:
        """Raise RuntimeError unless the invariant holds, given every sequence that owns blocks."""
        num_owners = [0] * self.num_blocks
        owned = (sequence.block_table[sequence.num_pinned_blocks :] for sequence in sequences)
        for table in (*owned, *self._pins.values()):
            for block in table:
                num_owners[block] += 1
        if self._num_owners != num_owners:
            raise RuntimeError("a KV block's reference count differs from the number of its owners")
        unowned = [block for block, count in enumerate(num_owners) if not count]
        if sorted([*self._free, *self._evictable]) != unowned:
            raise RuntimeError("an unowned KV block is not free, or free twice")
        if any(block in self._cache for block in self._free) or not all(b in self._cache for b in self._evictable):
            raise RuntimeError("a free KV block is cached, or an evictable one is not")
        self._cache.check()

    def _has_room(self, sequence: Sequence, match: Match, num_spare: int) -> bool:
        num_new = self.blocks_for(sequence.num_tokens) - len(match.blocks)
        shared = match.blocks[match.num_pinned_blocks :]
        num_revived = sum(block in self._evictable for block in shared) + (match.copy_source in self._evictable)
        return self.num_free_blocks - num_new - num_revived >= num_spare

    def _take(self, block: int) -> None:
        self._evictable.pop(block, None)
        self._num_owners[block] += 1

    def _new_block(self) -> int:
        if self._free:
            block = heappop(self._free)
        else:
            block = next(iter(self._evictable))
            del self._evictable[block]
            self._cache.discard(block)
        self._num_owners[block] = 1
        return block

    def _release(self, block: int) -> None:
        assert self._num_owners[block] > 0, "a KV block was released twice"
        self._num_owners[block] -= 1
        if self._num_owners[block]:
            return
        if block in self._cache:
            self._evictable[block] = None
        else:
            heappush(self._free, block)

    def _discard(self, block: int) -> None:
        """Take an owned block off the cache's list: it is free, not evictable, when its owners are gone."""
        assert self._num_owners[block] > 0
        self._cache.discard(block)

    def _listed(self, block: int, key: tuple[int, bytes]) -> int:
        """The block listed under `key`, owned in place of `block`; `block` itself, if none is."""
        listed = self._cache.find(key)
        if listed is None:
            self._discard(block)  # it may be listed under a predecessor that was evicted
            self._cache.add(block, key)
            return block
        if listed != block:
            self._take(listed)
            self._release(block)
        return listed
