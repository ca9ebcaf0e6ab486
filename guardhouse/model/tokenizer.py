"""Text to token ids and back, and the checkpoint's chat template.

Knows: tokenizer.json, tokenizer_config.json, chat_template.jinja, and the difference between a caller's text and ours.
Never knows: what a template's words mean, models, requests.

A caller's text is encoded with special tokens switched off: a literal "</s>" in it stays four characters of text and
cannot end a turn. Only rendered templates may hold special tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import msgspec
import tokenizers
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from guardhouse.errors import CheckpointError, InputError
from guardhouse.model.llama_config import read_eos_token_ids, read_json

CHAT_TEMPLATE_FILE = "chat_template.jinja"


class TemplateRefusalError(Exception):
    """A template called raise_exception: these messages are not for it."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A checkpoint's tokenizer. Thread-safe; encoding releases the GIL.

    >>> tokenizer = Tokenizer.load(Path("llamaguard-7b"))       # doctest: +SKIP
    >>> tokenizer.encode("</s>")                                # doctest: +SKIP
    [1533, 29879, 29958]
    """

    plain: tokenizers.Tokenizer  # takes special tokens in text for text
    parsing: tokenizers.Tokenizer  # takes them for what they are
    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool  # the checkpoint wants bos_token before every text

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read a checkpoint's folder. Raises CheckpointError."""
        fields = read_json(folder / "tokenizer_config.json")
        parsing = _read_tokenizer(folder / "tokenizer.json", special_is_text=False)
        bos_token, eos_token = _token_text(fields, "bos_token"), _token_text(fields, "eos_token")
        bos_token_id, eos_token_id = _token_id(parsing, bos_token), _token_id(parsing, eos_token)
        eos_token_ids = [*([] if eos_token_id is None else [eos_token_id]), *read_eos_token_ids(folder)]
        return cls(
            plain=_read_tokenizer(folder / "tokenizer.json", special_is_text=True),
            parsing=parsing,
            chat_template=_read_template(folder, fields),
            bos_token=bos_token,
            eos_token=eos_token,
            bos_token_id=bos_token_id,
            eos_token_ids=tuple(dict.fromkeys(eos_token_ids)),
            add_bos=_read_add_bos(fields, parsing, bos_token_id),
        )

    @property
    def vocab_size(self) -> int:
        """Ids this tokenizer can produce: 0 .. vocab_size - 1. A model's table may have more rows."""
        return self.plain.get_vocab_size()

    def as_json(self) -> str:
        """tokenizer.json's text, less the normalisers that fold letters: a grammar wants the ids of exactly its text."""
        data = msgspec.json.decode(self.plain.to_str())
        normalizer = data["normalizer"] or {}
        steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
        kept = [step for step in steps if step["type"] == "Prepend" or step.get("pattern") == {"String": " "}]
        data["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
        return msgspec.json.encode(data).decode()

    def token_id(self, piece: str) -> int | None:
        """The id of exactly this piece ("▁safe"), or None."""
        return self.plain.token_to_id(piece)

    def token(self, token_id: int) -> str:
        """The piece behind an id ("▁safe"). Raises InputError for an id that is none."""
        piece = self.plain.id_to_token(token_id)
        if piece is None:
            raise InputError("a token id is outside the vocabulary")
        return str(piece)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """A caller's text: whatever it looks like, it is text."""
        return self._with_bos(_encode(self.plain, text), bos)

    def encode_template(self, text: str, *, bos: bool = False) -> list[int]:
        """A rendered template of ours: special tokens in it are special."""
        return self._with_bos(_encode(self.parsing, text), bos)

    def decode(self, token_ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids; incomplete UTF-8 becomes U+FFFD, and one leading space of Llama 1 and 2 is dropped."""
        return self.plain.decode(list(token_ids), skip_special_tokens=skip_special)

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: object) -> str:
        """Messages in the checkpoint's chat template.

        InputError if the template refuses them (roles that do not alternate, say); CheckpointError if there is no
        template or it fails in any other way.
        """
        if self.chat_template is None:
            raise CheckpointError("the checkpoint has no chat template")
        given: dict[str, object] = {"add_generation_prompt": False, "bos_token": self.bos_token or ""}
        given |= {"eos_token": self.eos_token or "", **variables, "messages": messages}
        try:
            return _environment().from_string(self.chat_template).render(given)
        except TemplateRefusalError as refusal:
            # A template may weave a message's text into its complaint; only words of its own are passed on.
            is_literal = str(refusal) in self.chat_template
            raise InputError(f"the chat template refuses: {refusal if is_literal else 'these messages'}") from None
        except (jinja2.TemplateError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Its words may quote a message, so only its kind is told.
            raise CheckpointError(f"the chat template fails on these messages: {type(error).__name__}") from None

    def _with_bos(self, token_ids: list[int], bos: bool) -> list[int]:
        if not bos:
            return token_ids
        if self.bos_token_id is None:
            raise CheckpointError("the tokenizer has no bos_token to begin a text with")
        return [self.bos_token_id, *token_ids]


def _encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not valid Unicode: a lone surrogate at character {error.start}") from None
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _check_syntax(template: str) -> str:
    try:
        _environment().parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"the chat template is malformed: line {error.lineno}: {error.message}") from error
    return template


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers renders templates: a template comes with the checkpoint and must not reach anything."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    return environment


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusalError(str(message))


def _read_tokenizer(path: Path, special_is_text: bool) -> tokenizers.Tokenizer:
    if not path.exists():
        raise CheckpointError(f"{path.name}: no such file in {path.parent}")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path.name}: cannot be read: {error}") from error
    tokenizer.no_truncation()  # tokenizer.json may ask for it, and nothing is ever cut silently
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = special_is_text
    return tokenizer


def _token_text(fields: Mapping[str, Any], name: str) -> str | None:
    """A special token is written as a string, or as an object that holds it."""
    value = fields.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if text is not None and not isinstance(text, str):
        raise CheckpointError(f"tokenizer_config.json: {name} must be a string, found {type(text).__name__}")
    return text


def _token_id(tokenizer: tokenizers.Tokenizer, token: str | None) -> int | None:
    if token is None:
        return None
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise CheckpointError(f"tokenizer.json: has no token {token!r}, which tokenizer_config.json names")
    return token_id


def _read_add_bos(fields: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, bos_token_id: int | None) -> bool:
    """As tokenizer_config.json says; Llama 3's leaves it to the post-processor in tokenizer.json."""
    value = fields.get("add_bos_token")
    if value is None:
        return bos_token_id is not None and bos_token_id in tokenizer.encode("").ids
    if not isinstance(value, bool):
        raise CheckpointError(f"tokenizer_config.json: add_bos_token must be true or false, found {value!r}")
    return value


def _read_template(folder: Path, fields: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's (of several, the one named default), as transformers does."""
    path = folder / CHAT_TEMPLATE_FILE
    if path.exists():
        try:
            return _check_syntax(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path.name}: cannot be read: {error}") from error
    template = fields.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is None:
        return None
    if not isinstance(template, str):
        raise CheckpointError("tokenizer_config.json: chat_template must be a string, or a list of named ones")
    return _check_syntax(template)
