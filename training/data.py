"""Labelled rows -> conversations to train on and conversations held out.

Knows: the rows' JSON, labels, which rows to drop, how to vary a text's surface.
Never knows: token ids, tensors.
"""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.evasions import disguise
from training.sources import (
    EVALUATION_FILES,
    NOT_EVERYDAY_SOURCES,
    NUM_AS_PROMPTS,
    NUM_BORROWED_REFUSALS,
    RARE_CODE_FACTOR,
    RARE_CODES,
    REFUSAL_SOURCE,
    RETOLD_AS_PROMPTS,
    SOURCES,
    Source,
)
from training.template import CODES
from training.written.examples import HARD_KINDS, written_examples

HELD_OUT_SHARE = 0.05
UNLABELLED_SOURCE = "swapped"
MAX_TEXT_CHARS = 1500  # longer texts are cut for training only
DISGUISED_SHARE = 0.08
MIN_PARAGRAPH_CHARS = 150  # shorter lines of the general text are dictionary entries


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation whose last turn is judged. `codes` is empty where it is safe."""

    source: str
    turns: tuple[str, ...]
    codes: tuple[str, ...] = ()
    is_hard: bool = False  # benign, yet about a dangerous topic

    @property
    def role(self) -> str:
        return "user" if len(self.turns) % 2 else "assistant"

    @property
    def is_labelled(self) -> bool:
        """False where only a teacher's opinion of the text is known."""
        return self.source != UNLABELLED_SOURCE

    @property
    def is_held_out(self) -> bool:
        """By a hash of the first turn: one prompt is never on both sides, whatever its answers."""
        digest = hashlib.sha256(_fold(self.turns[0]).encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines; texts may hold U+2028, so that only \\n ends a line."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def to_example(row: dict[str, Any]) -> Example | None:
    """None for rows outside the six categories, and for empty texts."""
    codes = tuple(code for code in row["cats"] if code in CODES)
    if row["label"] == "unsafe" and not codes:
        return None
    texts = [row["prompt"]] if row["response"] is None else [row["prompt"], row["response"]]
    turns = tuple(text.strip() for text in texts)
    if not all(turns):
        return None
    is_hard = row["label"] == "safe" and "near:" in row["basis"]
    return Example(row["source"], turns, codes if row["label"] == "unsafe" else (), is_hard)


def evaluation_texts(folder: Path) -> frozenset[str]:
    """Folded judged texts of the evaluation sets: rows that equal one are dropped from training, nothing else."""
    rows = (row for name in EVALUATION_FILES for row in read_rows(folder / f"{name}.jsonl.gz"))
    return frozenset(_fold(row["response"] or row["prompt"]) for row in rows)


def load_file(path: Path, forbidden: frozenset[str]) -> dict[str, list[Example]]:
    """Usable, de-duplicated rows by source, in an order that does not depend on the file's."""
    by_source: dict[str, dict[tuple[str, ...], Example]] = {}
    for row in read_rows(path):
        example = to_example(row)
        if example and _fold(example.turns[-1]) not in forbidden:
            by_source.setdefault(example.source, {})[example.turns] = example
    return {source: sorted(unique.values(), key=_digest) for source, unique in by_source.items()}


def load_examples(folder: Path) -> tuple[list[Example], list[Example]]:
    """(training examples, repeated as the table of sources says; held-out examples, each once)."""
    forbidden = evaluation_texts(folder / "eval")
    training: list[Example] = []
    held_out: list[Example] = []
    files = {name: load_file(folder / "train" / f"{name}.jsonl.gz", forbidden) for name in {s.file for s in SOURCES}}
    for source in SOURCES:
        examples = files[source.file].get(source.name, [])
        kept = _capped([example for example in examples if not example.is_held_out], source)
        training += [example for example in kept for _ in range(_num_passes(example, source))]
        held_out += [example for example in examples if example.is_held_out]
    for example, passes in _written_by_us(forbidden):
        held_out += [example] * example.is_held_out
        training += [example] * (passes * (not example.is_held_out))
    training += [example for example in _retell_as_prompts(training, folder) if not example.is_held_out]
    return training + _borrow_refusals(training), held_out


def is_everyday(example: Example) -> bool:
    """A benign prompt that is not about anything dangerous, from sources of ordinary requests."""
    is_theirs = example.source not in NOT_EVERYDAY_SOURCES and not example.source.startswith("written_")
    return example.role == "user" and not example.codes and not example.is_hard and is_theirs


def general_texts(folder: Path, max_paragraphs: int) -> list[str]:
    """Paragraphs of plain English, evenly over the file."""
    with gzip.open(folder / "train" / "text.txt.gz", "rt", encoding="utf-8", newline="\n") as lines:
        paragraphs = [line.rstrip("\n") for line in lines]
    return paragraphs[:: max(1, len(paragraphs) // max_paragraphs)]


def vary_surface(text: str, chance: random.Random) -> str:
    """Sometimes without its last mark, sometimes with one, rarely disguised.

    Intent sets have no marks and lists of harmful requests do: without this the guard learns that.
    """
    draw = chance.random()
    if draw < 0.25:
        text = text.rstrip(".?! ") or text
    elif draw > 0.8:
        text += chance.choice(".?!") * text[-1].isalnum()
    return disguise(text, chance) if chance.random() < DISGUISED_SHARE else text


def _num_passes(example: Example, source: Source) -> int:
    return source.passes * (RARE_CODE_FACTOR if RARE_CODES.intersection(example.codes) else 1)


def _digest(example: Example) -> bytes:
    return hashlib.sha256("\0".join(example.turns).encode()).digest()


def _capped(examples: Sequence[Example], source: Source) -> list[Example]:
    safe = [example for example in examples if not example.codes][: source.max_safe]
    unsafe = [example for example in examples if example.codes][: source.max_unsafe]
    return safe + unsafe


def _borrow_refusals(examples: Iterable[Example]) -> list[Example]:
    """Unsafe prompts with a refusal from another source: an Agent that refuses is safe, whatever was asked."""
    pool = list(dict.fromkeys(examples))
    refusals = [e.turns[1] for e in pool if e.source == REFUSAL_SOURCE and not e.codes and len(e.turns[1]) < 300]
    prompts = [e for e in pool if e.codes and e.role == "user"]
    chance = random.Random(0)
    chosen = chance.sample(prompts, min(NUM_BORROWED_REFUSALS, len(prompts))) if refusals else []
    return [replace(e, turns=(e.turns[0], chance.choice(refusals)), codes=(), source="refusal") for e in chosen]


def _written_by_us(forbidden: frozenset[str]) -> Iterator[tuple[Example, int]]:
    """The examples of training/written and their passes; never a text of the evaluation sets, even by chance."""
    for written in written_examples():
        if _fold(written.turns[-1]) not in forbidden:
            is_hard = written.kind in HARD_KINDS
            yield Example(f"written_{written.kind}", written.turns, written.codes, is_hard), written.passes


def _retell_as_prompts(examples: Iterable[Example], folder: Path) -> list[Example]:
    """Long texts as a user's: answers, whose label is about their own text, and paragraphs of books, which are safe."""
    chance = random.Random(1)
    answers = [e for e in dict.fromkeys(examples) if e.source in RETOLD_AS_PROMPTS and len(e.turns) == 2]
    chosen = chance.sample(answers, min(NUM_AS_PROMPTS, len(answers)))
    paragraphs = [text for text in general_texts(folder, 40_000) if len(text) >= MIN_PARAGRAPH_CHARS]
    told = [replace(e, turns=(e.turns[1],), source="retold") for e in chosen]
    return told + [Example("paragraph", (text,)) for text in chance.sample(paragraphs, NUM_AS_PROMPTS)]


def _fold(text: str) -> str:
    """Letters and digits only, lower-case: equal for texts that differ in case, spaces and marks."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()
