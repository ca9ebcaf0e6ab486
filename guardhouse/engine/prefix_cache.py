"""Which blocks hold which tokens, for sequences that begin alike.

Knows: block numbers, token ids as bytes, what comes before what.
Never knows: who owns a block, tensors, scheduling, text.

A full block is found by the pair (content before it, its own tokens). A content is a number that is given to a block
when its keys and values have been computed, and never used again; it stands for all tokens up to the block's end. The
pair is looked up by hash and then compared in full, so neither a collision nor a block that was reused in the meantime
can ever return another prompt's keys and values. What comes before the first block is the sequence's root content, one
number per adapter: a chain that begins at one root never meets another's. Pins belong to the model's own weights.
"""

from dataclasses import dataclass, replace

from guardhouse.engine.sequence import ROOT_CONTENT, IntArray, Sequence

Key = tuple[int, bytes]  # (content before, tokens)


@dataclass(frozen=True, slots=True)
class Match:
    """What the cache holds of a sequence: whole blocks to share, and perhaps one more to copy a few tokens from."""

    blocks: list[int]
    content: int  # after the last of `blocks`
    num_tokens: int  # in `blocks` and in the copied part
    copy_source: int | None = None
    num_pinned_blocks: int = 0  # leading ones of `blocks`, which need no owner besides their pin


@dataclass(frozen=True, slots=True)
class PinnedPrefix:
    """The full blocks of a prefix that stays, found by one comparison instead of one for each block."""

    tokens: bytes  # of the full blocks
    num_tokens: int
    blocks: list[int]
    content: int


class PrefixCache:
    """Lists blocks by their contents. Invariant: a block is listed under one key, and a key lists one block."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._blocks: dict[Key, int] = {}
        self._listed: dict[int, tuple[Key, int]] = {}  # block -> its key and its own content
        self._tails: dict[int, list[tuple[IntArray, int]]] = {}  # content -> partly filled blocks that follow it
        self._pins: list[PinnedPrefix] = []  # longest first
        self._newest_content = ROOT_CONTENT

    def __contains__(self, block: int) -> bool:
        return block in self._listed

    def find(self, key: Key) -> int | None:
        return self._blocks.get(key)

    def content(self, block: int) -> int:
        """The number that stands for all tokens up to a listed block's end."""
        return self._listed[block][1]

    def add(self, block: int, key: Key) -> None:
        assert key not in self._blocks, "another block holds these tokens"
        assert block not in self._listed, "the block holds other tokens"
        self._newest_content += 1
        self._blocks[key] = block
        self._listed[block] = (key, self._newest_content)

    def discard(self, block: int) -> None:
        """Forget a block, and with it the way to all that follow it."""
        if block in self._listed:
            key, _ = self._listed.pop(block)
            del self._blocks[key]

    def add_tail(self, block: int, content: int, tokens: IntArray) -> None:
        """List a partly filled block, for copying only. It is never discarded."""
        self._tails.setdefault(content, []).append((tokens, block))

    def add_pin(self, tokens: bytes, blocks: list[int], content: int) -> None:
        """List a prefix's full blocks together, too. They are never discarded."""
        self._pins.append(PinnedPrefix(tokens, len(blocks) * self._block_size, blocks, content))
        self._pins.sort(key=lambda pin: -pin.num_tokens)

    def match(self, sequence: Sequence) -> Match:
        """As many of the sequence's tokens as are listed and need not be computed again."""
        limit = sequence.num_cacheable
        tokens = sequence.tokens.tobytes()
        pins = self._pins if sequence.root_content == ROOT_CONTENT else ()
        no_pin = PinnedPrefix(b"", 0, [], sequence.root_content)
        pin = next((pin for pin in pins if pin.num_tokens <= limit and tokens.startswith(pin.tokens)), no_pin)
        blocks = pin.blocks.copy()
        before = content = pin.content
        num_tokens = pin.num_tokens
        num_bytes = self._block_size * sequence.tokens.itemsize  # of a full block
        while num_tokens < limit:
            start = len(blocks) * num_bytes
            block = self._blocks.get((content, tokens[start : start + num_bytes]))
            if block is None:
                break
            blocks.append(block)
            before, content = content, self._listed[block][1]
            num_tokens += self._block_size
        if num_tokens > limit:  # the last block ends in tokens that must be computed: use a copy of its beginning
            return Match(blocks[:-1], before, limit, blocks[-1], len(pin.blocks))
        match = Match(blocks, content, num_tokens, None, len(pin.blocks))
        return self._with_tail(sequence, match, limit)

    def check(self) -> None:
        """Raise RuntimeError unless both directions of the listing agree."""
        keys = {block: key for block, (key, _) in self._listed.items()}
        if {block: key for key, block in self._blocks.items()} != keys:
            raise RuntimeError("the prefix cache contradicts itself")

    def _with_tail(self, sequence: Sequence, match: Match, limit: int) -> Match:
        best = match
        for tail, block in self._tails.get(match.content, ()):
            end = match.num_tokens + len(tail)
            if min(end, limit) > best.num_tokens and sequence.tokens[match.num_tokens : end] == tail:
                best = replace(match, num_tokens=min(end, limit), copy_source=block)
        return best
