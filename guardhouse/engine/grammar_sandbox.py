"""Try a grammar where it can do no harm: in a child process with bounded memory, killed when its time is up.

Knows: processes, what llguidance complains about, in words that quote nothing of a caller's schema.
Never knows: tokens, texts.

llguidance bounds most of what a grammar may cost, but not all: thirty patterns under one `allOf` keep it busy for minutes.
"""

import json
import re
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from guardhouse.errors import SchemaError

CHILD = Path(__file__).with_name("grammar_child.py")
TIMEOUT_S = 3.0  # a large sensible schema takes 0.2 s
START_TIMEOUT_S = 30.0
MAX_BYTES = 1 << 30  # of address space
TOO_COSTLY = "the JSON schema is too complex"

KEYWORDS = re.compile(r'"(\$?[a-zA-Z]+)"')
# What llguidance says -> what the caller is told. Its own words may quote the schema, which is the caller's text.
EXPLANATIONS: Mapping[str, str] = {
    "Unimplemented keys": "the JSON schema uses keywords that are not supported",
    "Unknown format": "the JSON schema uses a format that is not supported",
    "look-around": "a pattern of the JSON schema uses look-around, which is not supported",
    "regex parse error": "a pattern of the JSON schema is malformed or not supported",
    "recursion limit": "the JSON schema is nested too deeply",
    "circular references": "the JSON schema refers to itself beside other keywords, which is not supported",
    "Default retriever": "the JSON schema refers to another document, which is not fetched",
    "does not exist": "a $ref of the JSON schema points to nothing",
    "Unsatisfiable schema": "no value satisfies the JSON schema",
    "Invalid type": "the JSON schema names an unknown type",
    "Expected": "a keyword of the JSON schema has a value of the wrong type",
    "must be an object or boolean": "a part of the JSON schema is neither an object nor a boolean",
    "too big": TOO_COSTLY,
    "too large": TOO_COSTLY,
    "too many": TOO_COSTLY,
}
STANDARD_KEYWORDS = re.compile(
    "not|if|then|else|uniqueItems|contains|minContains|maxContains|propertyNames|dependentRequired|dependentSchemas"
    "|dependencies|unevaluatedProperties|unevaluatedItems|additionalItems|contentEncoding|contentMediaType"
)


class GrammarSandbox:
    """One child process, started when first needed and again after it was killed. One grammar is tried at a time."""

    def __init__(self, limits: Mapping[str, int], timeout_s: float = TIMEOUT_S) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def check(self, grammar: str) -> None:
        """Raise SchemaError if this grammar cannot be compiled, or not within the bounds."""
        with self._lock:
            if self._is_closed:
                raise SchemaError("the server is shutting down")
            complaint = self._ask(grammar)
        if complaint:
            raise SchemaError(explain(complaint))

    def close(self) -> None:
        """Kill the child; a check that is under way fails."""
        self._is_closed = True
        self._kill()

    def _ask(self, grammar: str) -> str:
        try:
            child = self._child or self._start()
            return self._exchange(child, json.dumps(grammar), self._timeout_s)
        except (TimeoutError, OSError, ValueError):  # it took too long, or died of its memory limit
            self._kill()
            return "too big"
        finally:
            if self._is_closed:  # meanwhile: `close` may have come before there was a child to kill
                self._kill()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", str(CHILD), str(MAX_BYTES), json.dumps(dict(self._limits))]
        self._child = child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self._exchange(child, '""', START_TIMEOUT_S)
        return child

    def _exchange(self, child: "subprocess.Popen[bytes]", line: str, timeout_s: float) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(line.encode() + b"\n")
        if not select.select([child.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        answer: str = json.loads(child.stdout.readline())
        return answer

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def explain(complaint: str) -> str:
    """llguidance's complaint in words that quote nothing of the schema but keywords of JSON Schema."""
    for sign, explanation in EXPLANATIONS.items():
        if sign in complaint:
            keywords = [word for word in KEYWORDS.findall(complaint) if STANDARD_KEYWORDS.fullmatch(word)]
            return f"{explanation}: {', '.join(keywords)}" if keywords else explanation
    return "the JSON schema cannot be compiled"
