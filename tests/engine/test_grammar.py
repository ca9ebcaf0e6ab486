"""Text held to a grammar meets it, whatever the model would rather write; and no grammar costs more than its bounds."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from guardhouse.engine.grammar import Grammar, GrammarCompiler, GrammarSource
from guardhouse.engine.grammar_sandbox import GrammarSandbox, explain
from guardhouse.errors import EngineClosed, SchemaError, SchemaUnmet
from guardhouse.guard.guard import EMBEDDED_FOLDER
from guardhouse.model.tokenizer import Tokenizer

MAX_TOKENS = 300


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(EMBEDDED_FOLDER)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer.as_json, tokenizer.vocab_size + 5, tokenizer.eos_token_ids)
    yield compiler
    compiler.close()


def grammar_of(compiler: GrammarCompiler, schema: object) -> Grammar:
    return compiler.compile(GrammarSource.of_schema(schema)).result(timeout=60)


def random_tokens(grammar: Grammar, tokenizer: Tokenizer, seed: int) -> list[int] | None:
    """What a model of uniform logits writes, ended as soon as it may; None if it does not come to an end."""
    generator = np.random.default_rng(seed)
    constraint = grammar.constraint()
    tokens: list[int] = []
    for _ in range(MAX_TOKENS):
        allowed = np.flatnonzero(constraint.allowed())
        assert allowed.max() < tokenizer.vocab_size, "a row of the head that no token has"
        if set(tokenizer.eos_token_ids) & set(allowed.tolist()):
            return tokens
        tokens.append(int(generator.choice(allowed)))
        constraint.accept(tokens[-1])
    return None


def random_text(grammar: Grammar, tokenizer: Tokenizer, seed: int) -> str | None:
    tokens = random_tokens(grammar, tokenizer, seed)
    return None if tokens is None else tokenizer.decode(tokens)


POINT = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "number"}}, "required": ["x", "y"]}
CLOSED = {"additionalProperties": False}
SCHEMAS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"enum": ["safe", "unsafe", None, 5, {"a": [1]}]},
    {"type": "integer", "minimum": -3, "maximum": 40},
    {"type": "string", "pattern": "^O[1-6](,O[1-6])*$"},
    {"type": "string", "maxLength": 5},
    {"type": "string", "format": "date"},
    {"type": "array", "items": {"enum": ["O1", "O2"]}, "minItems": 1, "maxItems": 3},
    {**POINT, **CLOSED},
    {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/p"}},
        "required": ["p"],
        **CLOSED,
        "$defs": {"p": {**POINT, **CLOSED}},
    },
    {
        "anyOf": [
            {"type": "null"},
            {"type": "object", "properties": {'näme "x"': {"const": "é\n"}}, "required": ['näme "x"'], **CLOSED},
        ]
    },
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"],
        **CLOSED,
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:50])
def test_whatever_is_written_under_a_schema_validates(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    grammar = grammar_of(compiler, schema)
    texts = [random_text(grammar, tokenizer, seed) for seed in range(8)]
    assert sum(text is not None for text in texts) >= 4
    for text in texts:
        if text is not None and "inf" not in repr(json.loads(text)):  # 1e999 is a number, but not in Python
            jsonschema_rs.validate(schema, json.loads(text))


def test_a_text_cut_short_is_known_to_be_incomplete(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = grammar_of(compiler, {"const": "ab"})
    whole = random_tokens(grammar, tokenizer, seed=1)
    assert whole is not None
    for num_tokens in range(1, len(whole) + 1):
        constraint = grammar.constraint()
        for token in whole[: num_tokens - 1]:
            constraint.allowed()
            constraint.accept(token)
        constraint.allowed()
        assert constraint.is_met_by(whole[num_tokens - 1]) == (num_tokens == len(whole))


def test_texts_under_one_grammar_do_not_mix(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = grammar_of(compiler, {"enum": ["aa", "ab"]})
    first, second = grammar.constraint(), grammar.constraint()
    quote = int(np.flatnonzero(first.allowed())[0])
    assert second.allowed()[quote]
    first.accept(quote)
    assert not first.allowed()[quote] or not np.array_equal(first.allowed(), second.allowed())


def test_equal_schemas_are_compiled_once(compiler: GrammarCompiler) -> None:
    assert grammar_of(compiler, {"type": "null"}) is grammar_of(compiler, {"type": "null"})


def test_a_refused_schema_is_tried_again_when_asked_again(compiler: GrammarCompiler) -> None:
    source = GrammarSource.of_schema({"enum": []})
    first = compiler.compile(source)
    with pytest.raises(SchemaError):
        first.result(timeout=60)
    assert compiler.compile(source) is not first


REFUSED: list[tuple[object, str]] = [
    ("x", "must be an object"),
    (None, "must be an object"),
    ([{}], "must be an object"),
    ({"type": "banana"}, "unknown type"),
    ({"type": "string", "pattern": "("}, "malformed"),
    ({"type": "string", "pattern": "(?=secret)b"}, "look-around"),
    ({"type": "array", "uniqueItems": True}, "keywords that are not supported: uniqueItems"),
    ({"not": {"const": "secret"}}, "keywords that are not supported: not"),
    ({"enum": []}, "no value satisfies"),
    ({"type": "string", "minLength": 3, "maxLength": 1}, "no value satisfies"),
    ({"$ref": "http://127.0.0.1:9/secret"}, "not fetched"),
    ({"$ref": "file:///etc/secret"}, "not fetched"),
    ({"$ref": "#/$defs/secret"}, "points to nothing"),
    ({"type": "string", "format": "secret"}, "format that is not supported"),
    ({"properties": {"secret": 5}}, "neither an object nor a boolean"),
    ({"minimum": "secret"}, "wrong type"),
    ({"const": "\ud800"}, "cannot be read"),
    ({"enum": [f"secret{number}" for number in range(20_000)]}, "larger than 64 KiB"),
]


@pytest.mark.parametrize(("schema", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_schema_that_cannot_be_compiled_is_refused_with_a_reason_that_quotes_nothing(
    compiler: GrammarCompiler, schema: object, reason: str
) -> None:
    with pytest.raises(SchemaError, match=reason) as error:
        grammar_of(compiler, schema)
    assert "secret" not in str(error.value)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "nested 900 deep": nested(900),
    "nested 100,000 deep": nested(100_000),
    "an enum of thousands": {"enum": [f"{number:06}" for number in range(7000)]},
    "30 patterns at once": {"allOf": [{"type": "string", "pattern": f".*a.{{{n}}}$"} for n in range(30)]},
    "300 property patterns": {
        "type": "object",
        "patternProperties": {f"^(a|b){{{n}}}c.*{n}$": {"type": "string"} for n in range(300)},
    },
    "a pattern of 10^9 states": {"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}b"},
    "backtracking": {"type": "string", "pattern": "^(([a-z]+)*[0-9]*)*x$"},
    "an exponential automaton": {"type": "string", "pattern": "^(a|b)*a(a|b){40}c$"},
    "4^12 alternatives": {
        "allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {"type": "string"}}} for j in range(4)]} for i in range(12)]
    },
    "2^30 references": {
        "$defs": {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)}
        | {"a30": {"type": "null"}},
        "$ref": "#/$defs/a0",
    },
    "1,500 optional properties": {"properties": {f"property{i}": {"type": "string"} for i in range(1500)}},
    "a billion items": {"type": "array", "items": {}, "minItems": 10**9},
    "a billion characters": {"type": "string", "minLength": 10**9},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_bounded_in_time(compiler: GrammarCompiler, tokenizer: Tokenizer, name: str) -> None:
    """Either it is refused, or it is compiled, and then its masks are bounded too."""
    started_s = time.process_time()
    try:
        grammar = grammar_of(compiler, HOSTILE[name])
        random_text(grammar, tokenizer, seed=1)
    except (SchemaError, SchemaUnmet):
        pass
    assert time.process_time() - started_s < 30, "of this process; the child has its own bound"
    assert grammar_of(compiler, {"type": "boolean"}), "the next schema is compiled as ever"


def test_a_grammar_that_takes_too_long_is_given_up(compiler: GrammarCompiler) -> None:
    sandbox = GrammarSandbox({}, timeout_s=0.0)
    with pytest.raises(SchemaError, match="too complex"):
        sandbox.check('{"grammars":[{"json_schema":{}}]}')
    sandbox.close()


def test_a_lark_grammar_is_compiled_too(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar = compiler.compile(GrammarSource("lark", 'start: "safe" | "unsafe\\n" /O[1-6]/')).result(timeout=60)
    texts = {random_text(grammar, tokenizer, seed) for seed in range(8)}
    assert texts <= {"safe", *(f"unsafe\nO{number}" for number in range(1, 7))}


def test_an_unknown_complaint_is_told_without_quoting_it() -> None:
    assert explain("something about 'secret'") == "the JSON schema cannot be compiled"


def test_a_closed_compiler_compiles_nothing(tokenizer: Tokenizer) -> None:
    compiler = GrammarCompiler(tokenizer.as_json, tokenizer.vocab_size, tokenizer.eos_token_ids)
    compiler.close()
    with pytest.raises(EngineClosed):
        compiler.compile(GrammarSource.of_schema({}))
