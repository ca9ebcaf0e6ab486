"""The child process of grammar_sandbox.py: grammars in, complaints out, one JSON string per line. Never imported.

Knows: llguidance alone, so that it starts in a tenth of a second.
Never knows: this package, tokenizers.

Arguments: bytes of address space, llguidance's limits as JSON.
"""

import json
import resource
import sys

from llguidance import LLMatcher, LLParserLimits


def main() -> None:
    max_bytes, limits = int(sys.argv[1]), LLParserLimits(verbose_errors=False, **json.loads(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    for line in sys.stdin:
        grammar = json.loads(line)
        complaint = ""
        if grammar:
            is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=limits)
            complaint = messages[0][:2000] if is_error else ""
        sys.stdout.write(json.dumps(complaint) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
