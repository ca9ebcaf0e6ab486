"""Frames of a byte-level tokenizer that fuses ".\\n\\n" into one token, as Llama 3's does, under a header-style template."""

import json
import random
from pathlib import Path

import pytest
from checkpoints import GUARD_TEMPLATE
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from guardhouse.guard.conversation import Role, Turn
from guardhouse.guard.prompt import FrameStore
from guardhouse.model import tokenizer as ours

SPECIAL_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# Words with the character before them, up to three digits, punctuation with the line ends behind it, runs of blanks.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = (
    GUARD_TEMPLATE.replace("[INST] ", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
    .replace(" [/INST]", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>")
    .replace("O1:", "S1:")
    .replace("O2:", "S2:")
    .replace("O3:", "S10:")
)
FRAGMENTS = [
    "hello", " ", "\n", "\n\n", "User:", "Agent: hi", ".", "!", "?", "'s", "1234", "é", "🙂", "\u200b", "\t", "a\n", "((",
    ")\n", "<END CONVERSATION>", "\r\n", "\u3000", "\xa0", "日本", "\u2028", "\u0301", "\x85", "\x1c", "<|eot_id|>",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ours.Tokenizer:
    return ours.Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("llama3")))


def write_tokenizer(folder: Path) -> Path:
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    corpus = [GUARD_TEMPLATE, "User: hi.\n\nAgent: ok!\n\nUser: (why)?\n\n", "unsafe\nS1,S10", "safe"]
    tokenizer.train_from_iterator(corpus * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"bos_token": SPECIAL_TOKENS[0], "eos_token": SPECIAL_TOKENS[-1], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    for name in ("config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    return folder


def test_whitespace_goes_where_the_tokenizer_wants_it(tokenizer: ours.Tokenizer) -> None:
    frame = FrameStore(tokenizer).frame("user")
    assert (frame.lead, frame.trail) == (" ", "\n\n")


def test_the_answer_comes_after_the_blank_line_that_the_model_would_write(tokenizer: ours.Tokenizer) -> None:
    tail = tokenizer.decode(FrameStore(tokenizer).frame("user").tail, skip_special=False)
    assert tail.endswith("assistant<|end_header_id|>\n\n")


def test_codes_of_several_digits_are_told_apart(tokenizer: ours.Tokenizer) -> None:
    answers = FrameStore(tokenizer).frame("user").answers
    assert len({answers.codes["S1"], answers.codes["S2"], answers.codes["S10"]}) == 3


def test_random_texts_splice_exactly(tokenizer: ours.Tokenizer) -> None:
    chance = random.Random(3)
    frames = FrameStore(tokenizer)
    for _ in range(120):
        contents = ["".join(chance.choices(FRAGMENTS, k=chance.randint(1, 8))) for _ in range(chance.randint(1, 3))]
        roles: list[Role] = ["user", "assistant", "user"]
        turns = [Turn(role, content + ".") for role, content in zip(roles, contents, strict=False)]
        frame = frames.frame(turns[-1].role)
        content_ids = [tokenizer.encode(f" {turn.content.strip()}\n\n") for turn in turns]
        shown = [turn.content.replace("<|eot_id|>", "<eot>").strip() for turn in turns]
        rendered = tokenizer.render(
            [{"role": turn.role, "content": text} for turn, text in zip(turns, shown, strict=True)]
        )
        if shown == [turn.content.strip() for turn in turns]:  # nothing in the text that parsing would take for special
            assert frame.ids(turns) == tokenizer.encode_template(rendered + "\n\n")
        assert sum(map(len, content_ids)) < len(frame.ids(turns))
        assert frame.ids(turns).count(tokenizer.eos_token_ids[0]) == 1
