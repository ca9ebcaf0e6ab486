"""Calibration texts as token ids: the user's file or the built-in texts, as the guard would read them.

Knows: text files, tables with a prompt and a response, guard frames.
Never knows: weights, how ids are used.

A guard reads every text inside its policy, so calibration does, too: the policy once, then each text and what follows it.
A checkpoint without a guard's template reads the bare text. Texts are cut at `max_tokens`; nothing is judged here.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from guardhouse.errors import CheckpointError, InputError
from guardhouse.guard.conversation import Turn
from guardhouse.guard.prompt import ROLES, FrameStore, PromptFrame
from guardhouse.model.tokenizer import Tokenizer
from guardhouse.quantization.activations import CalibrationGroup
from guardhouse.tables import SUFFIXES, read_rows

BUILT_IN = Path(__file__).parent / "texts.jsonl"
PROMPT_COLUMNS = ("prompt", "text", "content", "input", "question")

Conversation = Sequence[Turn]


def read_texts(path: Path = BUILT_IN, limit: int = 128) -> list[Conversation]:
    """At most `limit` conversations: lines of a .txt file, or rows with a prompt and, if any, a response.

    Raises InputError, which names the line.
    """
    if any(path.name.removesuffix(".gz").endswith(suffix) for suffix in SUFFIXES):
        conversations = list(islice(_read_table(path), limit))
    elif path.suffix == ".txt":
        conversations = list(islice(_read_lines(path), limit))
    else:
        raise InputError(f"{path.name}: calibration texts are a .txt file with one per line, or {', '.join(SUFFIXES)}")
    if not conversations:
        raise InputError(f"{path.name}: holds no text")
    return conversations


def digest(conversations: Sequence[Conversation]) -> str:
    """Tells one set of texts from another: 16 hex digits."""
    text = "\x1e".join("\x1f".join(f"{turn.role}:{turn.content}" for turn in turns) for turns in conversations)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def encode_texts(
    tokenizer: Tokenizer, conversations: Sequence[Conversation], max_tokens: int
) -> list[CalibrationGroup]:
    """Token ids, grouped by what they share. `max_tokens`: of each text, without the policy around it."""
    try:
        frames = FrameStore(tokenizer)
        by_role = {role: frames.frame(role) for role in ROLES}
    except CheckpointError:  # no guard's template: nothing to put around a text
        return [_plain_group(tokenizer, conversations, max_tokens)]
    groups = []
    for role, frame in by_role.items():
        judged = [turns for turns in conversations if turns[-1].role == role]
        if judged:
            groups.append(CalibrationGroup(frame.head, [_ending(frame, turns, max_tokens) for turns in judged]))
    return groups


def _ending(frame: PromptFrame, turns: Conversation, max_tokens: int) -> list[int]:
    """Everything behind the head, which ends with the label of a first turn by the user; only the contents are cut."""
    ids: list[int] = []
    for number, turn in enumerate(turns):
        ids += frame.joiners[turn.role] if number else ()
        ids += frame.content_ids(turn.content)[: max_tokens // len(turns)]
    return [*ids, *frame.tail]


def _plain_group(tokenizer: Tokenizer, conversations: Sequence[Conversation], max_tokens: int) -> CalibrationGroup:
    texts = ["\n\n".join(turn.content for turn in turns) for turns in conversations]
    bare = [tokenizer.encode(text)[:max_tokens] for text in texts]
    begin = tokenizer.encode("", bos=tokenizer.add_bos)
    return CalibrationGroup(begin, [ids for ids in bare if ids])


def _read_table(path: Path) -> Iterator[Conversation]:
    for row in read_rows(path):
        column = next((name for name in PROMPT_COLUMNS if name in row.values), None)
        prompt = row.values[column] if column else None
        response = row.values.get("response")
        if not isinstance(prompt, str) or not isinstance(response, str | None):
            raise InputError(f"{row.where}: calibration rows need a text in one of {', '.join(PROMPT_COLUMNS)}")
        if prompt.strip():
            yield (Turn("user", prompt), Turn("assistant", response)) if response else (Turn("user", prompt),)


def _read_lines(path: Path) -> Iterator[Conversation]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text") from error
    return ((Turn("user", line),) for line in lines if line.strip())
