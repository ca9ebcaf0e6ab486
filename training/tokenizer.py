"""Train the embedded guard's tokenizer: byte-pair encoding with the conventions of Llama 2.

As in Llama 2: `▁` stands for a space and is put before the text, digits are single, unknown characters fall back to
bytes, and ids 0, 1, 2 are <unk>, <s>, </s>. Unlike it, words are cut before merging, so that no piece crosses a newline
or the space before a word. That makes a rendered prompt exactly  head + encode(content) + tail.

Also unlike it, text is folded first, so that cheap disguises cost a reader's eye and not the guard's: small letters alone,
compatibility forms, no invisible characters, no marks between the letters of a word, no digits in place of letters.

Knows: texts, pieces, the shape of tokenizer.json.
Never knows: labels, models.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")

# A word with the space before it and a clitic after it; one newline; one digit; a run of punctuation; a run of spaces.
WORD_PATTERN = r"▁?[\p{L}\p{M}]+(?:['’]\p{L}+)?|\n|\p{N}|▁?[^\p{L}\p{M}\p{N}\n▁]+|▁+"
LETTER, JOINT = r"\p{L}", r"[.\-_*~|▁ ]"
LOOKALIKES = {
    "а": "a",
    "с": "c",
    "е": "e",
    "і": "i",
    "о": "o",
    "р": "p",
    "х": "x",
    "у": "y",
    "в": "b",
    "н": "h",
    "к": "k",
    "м": "m",
    "т": "t",
}
LEET = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", r"\$": "s", "!": "i"}
SINGLE_PIECES = ("▁safe", "▁unsafe", "O", ",", "<0x0A>", *"0123456789")  # what an answer is written with


def chat_template() -> str:
    """The template without the newline at the end of its file: a prompt ends in `[/INST]`."""
    return TEMPLATE_PATH.read_text(encoding="utf-8").rstrip("\n")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from `texts` and the template's own words."""
    learner = _with_conventions(Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *BYTE_TOKENS],  # fixes their ids; only the first three stay special
        limit_alphabet=160,
        min_frequency=3,
        show_progress=False,
    )
    learner.train_from_iterator(_training_lines(texts), trainer)
    learnt = json.loads(learner.to_str())["model"]
    tokenizer = build_tokenizer(learnt["vocab"], [tuple(merge) for merge in learnt["merges"]])
    missing = [piece for piece in SINGLE_PIECES if tokenizer.token_to_id(piece) is None]
    if missing:
        raise ValueError(f"not single pieces: {missing}")
    return tokenizer


def build_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Vocabulary and merges -> a tokenizer with Llama's normaliser, decoder and three special tokens."""
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = _with_conventions(Tokenizer(model))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def encode_plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of user texts: special tokens in them stay text."""
    tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_positions: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (which carries the chat template)."""
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<s>",
        "chat_template": chat_template(),
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": max_positions,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def _with_conventions(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence([*_folding(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")
    return tokenizer


def _folding() -> list[normalizers.Normalizer]:
    """In this order. Answers stay as they are: `O1` keeps its large letter."""
    spelt = rf"(?<=\b{LETTER}{JOINT}{LETTER}){JOINT}(?={LETTER}\b)|(?<=\b{LETTER}){JOINT}(?={LETTER}{JOINT}{LETTER}\b)"
    pairs = [
        (r"[\p{Cf}\p{Mn}]+", ""),  # zero-width, direction marks, tags, combining accents
        *((rf"(?<=[a-z]){theirs}|{theirs}(?={LETTER}{{0,2}}[a-z])", ours) for theirs, ours in LOOKALIKES.items()),
        (rf"(?<={LETTER})[\p{{So}}\p{{Sk}}]+(?={LETTER})", ""),  # emoji inside a word
        (spelt, ""),  # k i l l, k.i.l.l
        (rf"(?<=  {LETTER}) (?={LETTER}  )", ""),  # two letters alone between wider gaps
        (r" {2,}", " "),
        *((rf"(?<={LETTER}){digit}(?={LETTER})", letter) for digit, letter in LEET.items()),
        (r"\bo(?=[1-9])", "O"),
    ]
    replaced = [normalizers.Replace(Regex(pattern), content) for pattern, content in pairs]
    return [normalizers.NFKC(), normalizers.Lowercase(), *replaced]


def _training_lines(texts: Iterable[str]) -> Iterable[str]:
    """Lines, so that newline never becomes a piece of its own and stays the byte <0x0A>; then our own words, often."""
    for text in texts:
        yield from text.split("\n")
    own_lines = [*chat_template().split("\n"), "safe unsafe User: Agent: CONVERSATION O1,O2 0 1 2 3 4 5 6 7 8 9"]
    for _ in range(1000):
        yield from own_lines
