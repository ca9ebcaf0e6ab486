"""Check a body against a JSON Schema, with the reference service's own wording.

Knows: the part of JSON Schema that the run route uses, and how the service's validator (Cabidela) words a mismatch.
Never knows: HTTP, what the fields mean.

Its habits, kept because clients match on the texts:
* one problem per branch of `oneOf`, the first in order of declaration, `required` last; equal ones are told once;
* "Type mismatch of P, 'A' not in 'B'": the schema wants A, the payload is B;
* a list that is empty or holds only strings, numbers and nulls counts as binary data and passes as any array;
* a number, boolean, null or empty object in place of an array counts as absent.

Where the original would quote a caller's own key (an object in place of an array), this one reports a type mismatch; where
it would quote a caller's text (in place of a word of an `enum`), this one says "value".
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from guardhouse.errors import InputError

Schema = dict[str, Any]
STRICT = {"boolean": bool, "integer": int, "number": float, "string": str}
LIMITS = {"minimum": "ge", "maximum": "le", "minLength": "min_length", "maxLength": "max_length"}


def decode_json(body: bytes) -> object:
    """Parse JSON of any origin; whatever is wrong with it is an InputError, never a crash."""
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise InputError("JSON is nested too deeply") from None
    except ValueError as error:  # malformed, truncated, invalid UTF-8, lone surrogate, number out of range
        raise InputError(f"body is not valid JSON: {_without_quotes(error)}") from None


def _without_quotes(error: ValueError) -> str:
    return "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def validate(schema: Schema, payload: object) -> Schema:
    """Return the declared fields of the one branch of `oneOf` that fits, with its defaults; unknown keys are ignored.

    >>> branch = {"properties": {"n": {"type": "integer"}, "m": {"default": 1}}, "required": ["n"]}
    >>> validate({"oneOf": [branch]}, {"n": 2})
    {'n': 2, 'm': 1}
    """
    problems = [_object_problem(branch, payload, "") for branch in schema["oneOf"]]
    fitting = [branch for branch, problem in zip(schema["oneOf"], problems, strict=True) if problem is None]
    if len(fitting) != 1:
        reasons = ", ".join(dict.fromkeys(problem for problem in problems if problem))
        raise InputError(f"oneOf at '/' not met, {len(fitting)} matches{'' if fitting else ': ' + reasons}")
    properties = fitting[0]["properties"]
    defaults = {name: field["default"] for name, field in properties.items() if "default" in field}
    given = {name: value for name, value in _members(payload).items() if name in properties}
    return {**given, **{name: value for name, value in defaults.items() if name not in given}}


class Shortcut:
    """Knows of most bodies at once that they fit one branch and no other. Of all others it knows nothing: `validate` does.

    The same schema as msgspec structs, which are stricter: no quirks, and nothing that another branch declares.
    """

    def __init__(self, schema: Schema) -> None:
        names = {name for branch in schema["oneOf"] for name in branch["properties"]}
        self._structs = {branch["required"][0]: _strict_struct(branch, names) for branch in schema["oneOf"]}

    def knows(self, payload: object) -> bool:
        """True: `validate` returns what is in `payload` and in the schema, and the defaults."""
        if type(payload) is not dict:
            return False
        for name, struct in self._structs.items():
            if name in payload:
                try:
                    msgspec.convert(payload, struct)
                except msgspec.ValidationError:
                    return False
                return True
        return False


def _strict_struct(schema: Schema, names: Iterable[str] = ()) -> type[msgspec.Struct]:
    """`names`: further keys that must not be given."""
    properties, required = schema["properties"], schema.get("required", ())
    fields: list[Any] = [(name, _strict_type(properties[name])) for name in required]
    optional = {name: properties.get(name, {}) for name in (*properties, *names) if name not in required}
    fields += [(name, _strict_type(field) | UnsetType, UNSET) for name, field in optional.items()]
    return msgspec.defstruct("Strict", fields)


def _strict_type(schema: Schema) -> Any:
    """A type for all that needs no second look; UnsetType, which no value has, where there is none."""
    kind = schema.get("type", "")
    if kind == "object":
        return _strict_struct(schema)
    if kind == "array" and schema["items"]:
        return list[_strict_type(schema["items"])]  # type: ignore[misc]
    if kind not in STRICT or "enum" in schema:
        return UnsetType
    limits = {ours: schema[theirs] for theirs, ours in LIMITS.items() if theirs in schema}
    if "max_length" in limits:
        limits["max_length"] //= 2  # characters here, of which each is one or two of JavaScript's units
    return Annotated[STRICT[kind], Meta(**limits)]


def _problem(schema: Schema, value: object, path: str) -> str | None:
    """The first thing about `value` that `schema` forbids, or None."""
    wanted = schema.get("type")
    if wanted == "array":
        return _array_problem(schema, value, path)
    if wanted == "object":
        return _object_problem(schema, value, path)
    if "enum" in schema and value not in schema["enum"]:
        return f"enum {_shown(value)} not in {','.join(schema['enum'])} at '{path}'"
    types = json_types(value)
    if wanted and wanted not in types:
        return _type_mismatch(path, wanted, types)
    return _bound_problem(schema, value, path)


def _object_problem(schema: Schema, value: object, path: str) -> str | None:
    members = _members(value)
    properties = schema["properties"]
    present = [name for name in properties if name in members and _counts(properties[name], members[name])]
    for name in present:
        if problem := _problem(properties[name], members[name], f"{path}/{name}"):
            return problem
    required = schema.get("required", ())
    if any(name not in present for name in required):
        return f"required properties at '{path or '/'}' are '{','.join(required)}'"
    return None


def _array_problem(schema: Schema, value: object, path: str) -> str | None:
    if not isinstance(value, list):
        return _type_mismatch(path, "array", json_types(value))
    if _is_binary(value) or not schema["items"]:
        return None
    return next((p for i, item in enumerate(value) if (p := _problem(schema["items"], item, f"{path}/{i}"))), None)


def _bound_problem(schema: Schema, value: object, path: str) -> str | None:
    if isinstance(value, str) and ("maxLength" in schema or "minLength" in schema):
        length = len(value) if value.isascii() else len(value.encode("utf-16-le")) // 2  # JavaScript's
        if length < schema.get("minLength", 0):
            return f"Length of '{path}' must be >= {schema['minLength']} not met"
        if length > schema.get("maxLength", length):
            return f"Length of '{path}' must be <= {schema['maxLength']}"
    if isinstance(value, int | float):
        if value < schema.get("minimum", value):
            return f"'{path}' must be >= {schema['minimum']}"
        if value > schema.get("maximum", value):
            return f"'{path}' must be <= {schema['maximum']}"
    return None


def json_types(value: object) -> tuple[str, ...]:
    """The names by which the reference validator calls a value's type.

    >>> json_types(3.0), json_types(0.5), json_types(["a"])
    (('number', 'integer'), ('number',), ('array', 'binary'))
    """
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case str():
            return ("string",)
        case int() | float():
            return ("number", "integer") if value == value // 1 else ("number",)
        case list():
            return ("array", "binary") if _is_binary(value) else ("array",)
    return ("object",)


def _type_mismatch(path: str, wanted: str, types: tuple[str, ...]) -> str:
    found = ",".join(f"'{name}'" for name in types)
    return f"Type mismatch of '{path}', '{wanted}' not in {found}"


def _shown(value: object) -> str:
    """A number, null or short word as JavaScript writes it; anything else may be somebody's text."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w.-]{1,24}", value) else "value"
    return "value" if isinstance(value, list | dict) else msgspec.json.encode(value).decode()


def _counts(field: Schema, value: object) -> bool:
    if field.get("type") != "array":
        return True
    return isinstance(value, str | list) or (isinstance(value, dict) and bool(value))


def _is_binary(value: list[Any]) -> bool:
    return all(item is None or (isinstance(item, str | int | float) and not isinstance(item, bool)) for item in value)


def _members(value: object) -> Schema:
    return value if isinstance(value, dict) else {}
