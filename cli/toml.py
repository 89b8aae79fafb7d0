"""A resolved recipe as TOML, as `--recipe` reads it."""

import json
from collections.abc import Mapping
from typing import Any


def dumps(recipe: Mapping[str, Any]) -> str:
    """Plain values that come first, then a table for each section; entries that are not set are left out."""
    plain = {name: value for name, value in recipe.items() if not _tables(value) and _set(value)}
    blocks = ["\n".join(_line(name, value) for name, value in plain.items())]
    for name, value in recipe.items():
        if _tables(value) and value:
            head = f"[[{_key(name)}]]" if isinstance(value, list) else f"[{_key(name)}]"
            blocks += [_block(head, part) for part in (value if isinstance(value, list) else [value])]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _tables(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value))


def _set(value: Any) -> bool:
    return value is not None and value != {}


def _block(head: str, part: Any) -> str:
    lines = [_line(name, value) for name, value in part.items() if _set(value)]
    return "\n".join([head, *lines]) if lines else ""


def _line(name: str, value: Any) -> str:
    return f"{_key(name)} = {_value(value)}"


def _key(name: str) -> str:
    bare = name.replace("_", "").replace("-", "")
    return name if bare.isascii() and bare.isalnum() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_line(name, inner) for name, inner in value.items() if _set(inner)) + " }"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(inner) for inner in value if inner is not None)}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
