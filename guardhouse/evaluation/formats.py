"""The public sets' own columns, and everyone's, as labelled conversations.

Knows: which columns a format has and what they mean; Llama Guard's six categories.
Never knows: files, scores, models.

Sources of the columns, on GitHub: openai/moderation-api-release, paul-rottger/xstest, centerforaisafety/HarmBench; on the
Hugging Face hub: lmsys/toxic-chat.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guardhouse.errors import InputError
from guardhouse.evaluation.examples import Example
from guardhouse.guard.conversation import Conversation, Turn, parse_messages
from guardhouse.tables import Row

# The letters of the OpenAI set and the categories of Llama Guard that they fall under (its README names the letters).
OPENAI_CODES = {"S": "O2", "S3": "O2", "H": "O1", "H2": "O1", "V": "O1", "V2": "O1", "HR": "O1", "SH": "O6"}
HARMBENCH_CODES = {
    "chemical_biological": "O4",
    "cybercrime_intrusion": "O3",
    "illegal": "O3",
    "harassment_bullying": "O1",
    "harmful": "other",
    "misinformation_disinformation": "other",
}
UNSAFE_WORDS = frozenset({"unsafe", "1", "true", "yes", "harmful", "toxic", "flagged", "positive"})
SAFE_WORDS = frozenset({"safe", "0", "false", "no", "benign", "harmless", "unharmful", "nontoxic", "negative"})
UNKNOWN_CODE = "?"  # unsafe, but nobody says in which way

TEXT_COLUMNS = ("prompt", "text", "content", "input", "question", "message", "user_input", "comment_text")
RESPONSE_COLUMNS = ("response", "answer", "output", "completion", "model_output")
LABEL_COLUMNS = ("label", "is_unsafe", "unsafe", "flagged", "harmful", "toxicity", "is_toxic", "target")
CODE_COLUMNS = ("cats", "categories", "codes", "category")
MESSAGES_COLUMNS = ("messages", "conversation")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a table of the user's own has its text and label; None: found by name."""

    text: str | None = None
    response: str | None = None
    label: str | None = None
    codes: str | None = None
    unsafe_labels: tuple[str, ...] = ()  # exactly these are unsafe, all others safe; (): words known to everyone


class Skip(Exception):  # control flow, never an outcome
    """This row is not an example, for a reason that is counted and reported."""


Reader = Callable[[Row], Example]


def find_format(names: Iterable[str]) -> str:
    """The format of a table by its column names."""
    found = set(names)
    if {"user_input", "toxicity"} <= found:
        return "toxicchat"
    if {"Behavior", "SemanticCategory"} <= found:
        return "harmbench"
    if {"prompt", "type", "focus"} <= found:
        return "xstest"
    if found - {"prompt"} and found - {"prompt"} <= set(OPENAI_CODES):
        return "openai-moderation"
    return "table"


def make_reader(format_name: str, names: Iterable[str], columns: Columns, where: str) -> Reader:
    """How rows of this format become examples; raises InputError where the columns do not fit."""
    if format_name == "table":
        return _table_reader(list(names), columns, where)
    return READERS[format_name]


def openai_moderation(row: Row) -> Example:
    """{prompt, S, H, V, HR, SH, S3, H2, V2}; 1: yes, 0: no, absent: not labelled.

    As in the paper's own evaluation a row is unsafe if any letter is 1, so unlabelled letters count as no for that; the
    per-category numbers leave out rows in which the category was not labelled.
    """
    labels = {letter: _zero_or_one(row, letter) for letter in OPENAI_CODES if row.values.get(letter) not in {None, ""}}
    if not labels:
        raise InputError(f"{row.where}: has none of the labels {', '.join(OPENAI_CODES)}")
    codes = {OPENAI_CODES[letter] for letter, value in labels.items() if value}
    open_codes = set(OPENAI_CODES.values()) - {OPENAI_CODES[letter] for letter in labels}
    return _example(row, _prompt(row, "prompt"), bool(codes), codes, unlabelled=frozenset(open_codes))


def toxicchat(row: Row) -> Example:
    """{user_input, model_output, human_annotation, toxicity, jailbreaking}: the label is about the user's input."""
    is_unsafe = bool(_zero_or_one(row, "toxicity"))
    group = "jailbreaking" if str(row.values.get("jailbreaking", "0")) == "1" else ""
    return _example(row, _prompt(row, "user_input"), is_unsafe, None, group=group, id_column="conv_id")


def xstest(row: Row) -> Example:
    """{prompt, type, focus, note} and, in later editions, label; types that begin with `contrast_` are unsafe."""
    kind = str(row.values["type"])
    label = row.values.get("label")
    is_unsafe = kind.startswith("contrast_") if label in {None, ""} else parse_label(label, row.where)
    return _example(row, _prompt(row, "prompt"), is_unsafe, None, group=kind)


def harmbench(row: Row) -> Example:
    """{Behavior, FunctionalCategory, SemanticCategory, ContextString}: requests, all of them unsafe."""
    if row.values.get("FunctionalCategory") == "copyright" or row.values["SemanticCategory"] == "copyright":
        raise Skip("copyright requests, which are no matter of safety")
    category = str(row.values["SemanticCategory"])
    prompt = _text(row, "Behavior")
    context = row.values.get("ContextString")
    text = f"{context}\n\n{prompt}" if context else prompt
    codes = {HARMBENCH_CODES.get(category, "other")}
    return _example(row, _conversation([("user", text)]), True, codes, group=category, id_column="BehaviorID")


READERS: Mapping[str, Reader] = {
    "openai-moderation": openai_moderation,
    "toxicchat": toxicchat,
    "xstest": xstest,
    "harmbench": harmbench,
}
FORMATS = (*READERS, "table")


def parse_label(value: object, where: str, unsafe_labels: Sequence[str] = ()) -> bool:
    """Whether a label says unsafe. An unknown word is an error, never a guess."""
    word = str(value).strip().lower()
    if unsafe_labels:
        return word in {label.strip().lower() for label in unsafe_labels}
    if word in UNSAFE_WORDS or word == "1.0":
        return True
    if word in SAFE_WORDS or word == "0.0":
        return False
    raise InputError(f"{where}: the label is neither safe nor unsafe; name the unsafe ones with --unsafe-label")


def parse_codes(value: object, where: str) -> frozenset[str]:
    """["O1", "O3"], "O1,O3" or "[\\"O1\\"]" -> codes."""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else text.replace(";", ",").replace("|", ",").split(",")
        except json.JSONDecodeError:
            raise InputError(f"{where}: the list of categories is not valid JSON") from None
    if value is None:
        return frozenset()
    if not isinstance(value, Sequence) or not all(isinstance(code, str) for code in value):
        raise InputError(f"{where}: categories must be a list of codes, such as O1,O3")
    return frozenset(code.strip() for code in value if code.strip())


def _table_reader(names: Sequence[str], columns: Columns, where: str) -> Reader:
    label = _find_column(names, columns.label, LABEL_COLUMNS, "label", where)
    messages = next((name for name in MESSAGES_COLUMNS if name in names), None) if columns.text is None else None
    text = None if messages else _find_column(names, columns.text, TEXT_COLUMNS, "text", where)
    response = _find_optional(names, columns.response, RESPONSE_COLUMNS, "response", where)
    codes = _find_optional(names, columns.codes, CODE_COLUMNS, "category", where)

    def read(row: Row) -> Example:
        is_unsafe = parse_label(_value(row, label), row.where, columns.unsafe_labels)
        found = parse_codes(row.values.get(codes), row.where) if codes else frozenset()
        if messages:
            conversation = _read_messages(row, messages)
        else:
            assert text is not None
            conversation = _read_turns(row, text, response)
        unlabelled = None if codes is None or UNKNOWN_CODE in found or (is_unsafe and not found) else frozenset[str]()
        group = ",".join(sorted(found))
        return _example(row, conversation, is_unsafe, found, unlabelled=unlabelled, group=group)

    return read


def _find_column(names: Sequence[str], chosen: str | None, usual: Sequence[str], what: str, where: str) -> str:
    found = _find_optional(names, chosen, usual, what, where)
    if found is None:
        flag = f"--{what}-column"
        raise InputError(f"{where}: no {what} column among {', '.join(names)}; name it with {flag}")
    return found


def _find_optional(names: Sequence[str], chosen: str | None, usual: Sequence[str], what: str, where: str) -> str | None:
    if chosen is not None and chosen not in names:
        raise InputError(f"{where}: no column {chosen!r} (--{what}-column) among {', '.join(names)}")
    return chosen or next((name for name in usual if name in names), None)


def _read_turns(row: Row, text: str, response: str | None) -> Conversation:
    """The prompt is judged, or, where there is a response, the response with the prompt as its context."""
    answer = row.values.get(response) if response else None
    if answer is None or answer == "":
        return _prompt(row, text)
    turns = [("user", _text(row, text))] if row.values.get(text) else []
    return _conversation([*turns, ("assistant", _text(row, str(response)))])


def _read_messages(row: Row, column: str) -> Conversation:
    value = row.values.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InputError(f"{row.where}: column {column!r} is not valid JSON") from None
    if not isinstance(value, list):
        raise InputError(f"{row.where}: column {column!r} is no list of {{role, content}}")
    try:
        return parse_messages(value)
    except InputError as error:
        raise Skip(str(error)) from error


def _prompt(row: Row, column: str) -> Conversation:
    return _conversation([("user", _text(row, column))])


def _conversation(turns: Sequence[tuple[Any, str]]) -> Conversation:
    """An empty text can be judged by nobody: it is counted, not judged, and no reason to stop."""
    try:
        return Conversation(tuple(Turn(role, text) for role, text in turns))
    except InputError as error:
        raise Skip(str(error)) from error


def _text(row: Row, column: str) -> str:
    value = _value(row, column)
    if not isinstance(value, str):
        raise InputError(f"{row.where}: column {column!r} holds {type(value).__name__}, not text")
    return value


def _zero_or_one(row: Row, column: str) -> int:
    value = _value(row, column)
    if str(value).strip() not in {"0", "1", "0.0", "1.0"}:
        raise InputError(f"{row.where}: column {column!r} must be 0 or 1")
    return int(float(str(value)))


def _value(row: Row, column: str) -> Any:
    try:
        return row.values[column]
    except KeyError:
        raise InputError(f"{row.where}: has no {column!r}") from None


def _example(
    row: Row,
    conversation: Conversation,
    is_unsafe: bool,
    codes: Iterable[str] | None,
    *,
    unlabelled: frozenset[str] | None = None,
    group: str = "",
    id_column: str = "id",
) -> Example:
    row_id = row.values.get(id_column)
    return Example(
        where=row.where,
        line=row.line,
        conversation=conversation,
        is_unsafe=is_unsafe,
        codes=frozenset(codes or ()),
        unlabelled=unlabelled,
        group=group,
        id="" if row_id is None else str(row_id),
    )
