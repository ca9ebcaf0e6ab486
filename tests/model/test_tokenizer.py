"""What model/tokenizer.py promises, against SentencePiece and transformers where their files are at hand."""

import random
import time
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from checkpoints import GUARD_TEMPLATE, edit_json, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from guardhouse.errors import CheckpointError, InputError
from guardhouse.model.tokenizer import Tokenizer

FRAGMENTS = (
    # markers and words of the guard's prompt
    *("<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<END CONVERSATION>", "<0x0A>", "User:", "Agent: ", "▁", "▁▁a"),
    *("safe", "unsafe", " unsafe", "0123456789", "the", ",", "!?", "{{x}}"),
    # white space and control characters
    *("\n", "\n\n", "\r\n", "\t", " ", "   ", "\xa0", "\x85", "\u2028", "\x00", "\x07", "\x7f"),
    # scripts
    *("naïve", "İstanbul", "straße", "漢字かな", "한국어", "עִבְרִית", "العربية", "हिन्दी", "ไทย", "ﬁ", "Ａ"),
    # emoji, alone and joined; invisible, bidirectional and combining characters; noncharacters
    *("😀", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "\u200b", "\u200d", "\u202e", "\u2066", "\ufeff", "\u0301"),
    *("\ufffd", "\uffff", "\U000e0041", "\U0010ffff"),
)


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    characters = [chr(point) for point in range(0x11000) if not 0xD800 <= point <= 0xDFFF]
    return [
        "".join(
            generator.choice(FRAGMENTS) if generator.random() < 0.6 else generator.choice(characters)
            for _ in range(generator.randint(0, 12))
        )
        for _ in range(count)
    ]


def test_llama_2_ids_equal_sentencepieces(shared_data: Path) -> None:
    folder = shared_data / "llamaguard-7b"
    tokenizer = Tokenizer.load(folder)
    oracle = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    texts = random_texts(5000)
    assert [tokenizer.encode(text) for text in texts] == oracle.encode(texts)


def test_a_guard_prompt_is_its_fixed_ids_around_the_texts(shared_data: Path) -> None:
    tokenizer = Tokenizer.load(shared_data / "llamaguard-7b")
    empty = tokenizer.encode_template(tokenizer.render([{"role": "user", "content": "hi"}]))
    head, tail = empty[:830], empty[-64:]
    for text in [text for text in random_texts(300) if text.strip() and "<s>" not in text]:
        rendered = tokenizer.render([{"role": "user", "content": text}])
        spliced = head + tokenizer.encode(text.strip()) + tail
        assert tokenizer.encode(rendered) == spliced


def test_the_known_ids_of_llama_guard(shared_data: Path) -> None:
    tokenizer = Tokenizer.load(shared_data / "llamaguard-7b")
    assert (tokenizer.token_id("▁safe"), tokenizer.token_id("▁unsafe")) == (9109, 25110)
    assert tokenizer.encode("unsafe\nO3") == [25110, 13, 29949, 29941]
    assert tokenizer.encode("<s>") == [529, 29879, 29958]
    assert tokenizer.encode("</s>", bos=True) == [1, 1533, 29879, 29958]
    assert tokenizer.encode_template("hi</s>") == [7251, 2]
    assert (tokenizer.vocab_size, tokenizer.bos_token_id, tokenizer.eos_token_ids) == (32000, 1, (2,))
    assert tokenizer.add_bos


def test_a_megabyte_without_a_space_takes_seconds_not_hours(shared_data: Path) -> None:
    tokenizer = Tokenizer.load(shared_data / "llamaguard-7b")
    start = time.monotonic()
    tokenizer.encode("ab" * 500_000)
    assert time.monotonic() - start < 20  # about 1 s where nothing else runs


def test_rendering_equals_transformers(shared_data: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "llamaguard-7b"
    oracle = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    messages = [{"role": ("user", "assistant")[turn % 2], "content": f" turn {turn}\n"} for turn in range(4)]
    for length in range(1, 5):
        expected = oracle.apply_chat_template(messages[:length], tokenize=False)
        assert tokenizer.render(messages[:length]) == expected


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_survives_encoding_and_decoding(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizer = load_tiny(tmp_path_factory)
    # "▁" is what the vocabulary writes for a space: that one character cannot come back
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "a", " ", "\n"]), max_size=8).map("".join))
def test_special_tokens_in_a_callers_text_stay_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assert not {0, 1, 2} & set(load_tiny(tmp_path_factory).encode(text))


def load_tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.getbasetemp() / "tiny-tokenizer"
    if not folder.exists():
        write_checkpoint(folder)
    return Tokenizer.load(folder)


def test_special_tokens_in_a_template_are_special(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path))
    assert tokenizer.encode_template("<s>a</s>") == [1, *tokenizer.encode("a"), 2]


def test_decoding_drops_special_tokens_unless_told_otherwise(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path))
    ids = [*tokenizer.encode("safe"), 2]
    assert tokenizer.decode(ids) == "safe"
    assert tokenizer.decode(ids, skip_special=False) == "safe</s>"


def test_grammars_get_a_tokenizer_that_folds_no_letters(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    whole = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole.normalizer = normalizers.Sequence([normalizers.Lowercase(), whole.normalizer])
    whole.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    exact = tokenizers.Tokenizer.from_str(tokenizer.as_json())
    assert tokenizer.encode("SAFE it is") == tokenizer.encode("safe it is")
    assert exact.decode(exact.encode("SAFE it is", add_special_tokens=False).ids) == "SAFE it is"
    assert exact.encode("safe it is", add_special_tokens=False).ids == tokenizer.encode("safe it is")


def test_a_lone_surrogate_is_refused_without_quoting_the_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path))
    with pytest.raises(InputError, match="lone surrogate at character 6") as caught:
        tokenizer.encode("secret\ud83d")
    assert "secret" not in str(caught.value)


def test_truncation_asked_for_by_tokenizer_json_is_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit_json(tmp_path / "tokenizer.json", truncation=truncation)
    assert len(Tokenizer.load(tmp_path).encode("x" * 100)) > 100


def test_bos_follows_the_post_processor_where_the_configuration_is_silent(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", add_bos_token=None)
    assert Tokenizer.load(tmp_path).add_bos
    edit_json(tmp_path / "tokenizer.json", post_processor=None)
    assert not Tokenizer.load(tmp_path).add_bos


def test_stop_tokens_come_from_every_file_that_names_them(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "config.json", eos_token_id=[5, 2])
    edit_json(tmp_path / "generation_config.json", eos_token_id=[2, 9])
    assert Tokenizer.load(tmp_path).eos_token_ids == (2, 5, 9)


def test_a_template_file_comes_before_the_configurations(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, template="from the configuration")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}from the file")
    assert Tokenizer.load(tmp_path).render([]) == "<s>from the file"


def test_of_several_templates_the_default_one_is_used(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    templates = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    edit_json(tmp_path / "tokenizer_config.json", chat_template=templates)
    assert Tokenizer.load(tmp_path).render([]) == "yes"


def test_messages_that_a_template_refuses_are_the_callers_fault(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path, template=GUARD_TEMPLATE))
    with pytest.raises(InputError, match="roles must alternate"):
        tokenizer.render([{"role": "assistant", "content": "a"}])


def test_a_refusal_that_quotes_a_message_is_not_passed_on(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(
        write_checkpoint(tmp_path, template="{{ raise_exception('bad: ' + messages[0].content) }}")
    )
    with pytest.raises(InputError) as caught:
        tokenizer.render([{"role": "user", "content": "secret"}])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content.strip().missing.deeper }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(tmp_path: Path, template: str) -> None:
    tokenizer = Tokenizer.load(write_checkpoint(tmp_path, template=template))
    with pytest.raises(CheckpointError, match="the chat template fails"):
        tokenizer.render([{"role": "user", "content": "a"}])


def test_a_malformed_template_is_refused_on_loading(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="malformed: line 1"):
        Tokenizer.load(write_checkpoint(tmp_path, template="{% if %}"))


def test_rendering_without_a_template_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        Tokenizer.load(write_checkpoint(tmp_path)).render([])


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, file: str, content: str | None) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=file):
        Tokenizer.load(tmp_path)


def test_a_special_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", eos_token="<|eot_id|>")
    with pytest.raises(CheckpointError, match=r"no token '<\|eot_id\|>'"):
        Tokenizer.load(tmp_path)
