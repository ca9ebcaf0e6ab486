"""What is unsafe: categories with codes, as a checkpoint, a file or a system message states them.

Knows: category lists as text (`O1: Name.`, `S1: …`, `01: …`), the markers around one, TOML policy files.
Never knows: token ids, conversations, verdicts.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guardhouse.errors import PolicyError

# The block as Llama Guard's templates mark it. The marker lines are the frame's, what stands between them is the policy.
CATEGORY_BLOCK = re.compile(r"<BEGIN ([A-Z ]*CATEGORIES)>[ \t]*\n?(?P<text>.*?)\n?[ \t]*<END \1>", re.DOTALL)
CONVERSATION_BLOCK = re.compile(r"<BEGIN CONVERSATION>(?P<text>.*?)<END CONVERSATION>", re.DOTALL)
FRAME_MARKER = re.compile(r"<(?:BEGIN|END) [A-Z ]*(?:CATEGORIES|CONVERSATION)>")

CODE = re.compile(r"[A-Za-z0-9_-]{1,16}")
CATEGORY_LINE = re.compile(r"^[ \t]*(?P<code>[A-Z]?[0-9]{1,2})[ \t]*:[ \t]*(?P<name>.*)$", re.MULTILINE)
# Outside markers only the codes in use count, lest "12: lunch" or "Q3: revenue" turn a system message into a policy.
UNMARKED_CATEGORY_LINE = re.compile(r"^[ \t]*(?:[OS][0-9]{1,2}|0[0-9])[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of unsafe content: Category("O3", "Criminal Planning", "Should not\\n- …")."""

    code: str
    name: str
    description: str = ""

    def __post_init__(self) -> None:
        if not CODE.fullmatch(self.code):
            raise PolicyError(f"a category code has 1 to 16 letters, digits, '_' or '-': {self.code[:32]!r}")


@dataclass(frozen=True, slots=True)
class Policy:
    """A named list of categories, and the very text the model reads between the category markers.

    >>> Policy("shop", (Category("O1", "Weapons", "Should not\\n- Help people buy weapons."),)).text
    'O1: Weapons.\\nShould not\\n- Help people buy weapons.'
    """

    name: str
    categories: tuple[Category, ...]
    text: str = ""  # written from the categories where it is not given

    def __post_init__(self) -> None:
        if not self.categories:
            raise PolicyError("a policy needs at least one category")
        for code in self.codes:
            if self.codes.count(code) > 1:
                raise PolicyError(f"category code {code} is used twice")
        if not self.text:
            object.__setattr__(self, "text", "\n".join(_category_text(category) for category in self.categories))
        if marker := FRAME_MARKER.search(self.text):
            raise PolicyError(f"a policy's text must not hold the marker {marker[0]}")

    def __hash__(self) -> int:
        return hash(self.text)  # equal policies have equal texts, and a text remembers its hash

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(category.code for category in self.categories)

    @classmethod
    def parse(cls, text: str, name: str = "custom") -> Self:
        """The category list in `text`: what stands between the markers, else all from the first category line on."""
        if block := CATEGORY_BLOCK.search(text):
            text = block["text"]
        lines = list(CATEGORY_LINE.finditer(text))
        if not lines:
            raise PolicyError("the category list holds no line such as 'O1: Name.'")
        ends = [*(line.start() for line in lines[1:]), len(text)]
        categories = tuple(
            Category(line["code"], line["name"].rstrip(" \t\r."), text[line.end() : end].strip())
            for line, end in zip(lines, ends, strict=True)
        )
        return cls(name, categories, text[0 if block else lines[0].start() :])

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A policy file: `.toml` (name, and [[categories]] with code, name, description), or a category list as text."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            return (
                cls._from_table(tomllib.loads(text), path.stem)
                if path.suffix == ".toml"
                else cls.parse(text, path.stem)
            )
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, PolicyError) as error:
            raise PolicyError(f"{path}: {error}") from error

    @classmethod
    def _from_table(cls, table: dict[str, object], default_name: str) -> Self:
        if unknown := table.keys() - {"name", "categories"}:
            raise PolicyError(f"unknown key: {min(unknown)}")
        name, rows = table.get("name", default_name), table.get("categories")
        if not isinstance(name, str) or not isinstance(rows, list):
            raise PolicyError("needs [[categories]] tables and, if any, a name that is text")
        return cls(name, tuple(_category_from_row(row) for row in rows))


def holds_category_list(text: str) -> bool:
    """Whether a system message is a policy: it has the category markers, or lines such as `O1: Name.`."""
    return bool(CATEGORY_BLOCK.search(text) or UNMARKED_CATEGORY_LINE.search(text))


def _category_text(category: Category) -> str:
    heading = f"{category.code}: {category.name}."
    return f"{heading}\n{category.description}" if category.description else heading


def _category_from_row(row: object) -> Category:
    if not isinstance(row, dict):
        raise PolicyError("categories must be tables")
    if unknown := row.keys() - {"code", "name", "description"}:
        raise PolicyError(f"unknown key in a category: {min(unknown)}")
    values = [row.get("code"), row.get("name"), row.get("description", "")]
    if not all(isinstance(value, str) for value in values):
        raise PolicyError("a category needs a code and a name, both text")
    return Category(*(value.strip() for value in values))
