"""Is a JSON document of the form that a schema describes? The keywords that `data/report.schema.json` uses, no others.

A library does this for the tests; here a few lines save a dependency, so that reports can be read safely.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
}
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("number", lambda v, bound: v >= bound),
    "exclusiveMinimum": ("number", lambda v, bound: v > bound),
    "maximum": ("number", lambda v, bound: v <= bound),
    "minItems": ("array", lambda v, bound: len(v) >= bound),
    "maxItems": ("array", lambda v, bound: len(v) <= bound),
    "pattern": ("string", lambda v, pattern: re.search(pattern, v) is not None),
}


def violation(value: Any, schema: Mapping[str, Any]) -> str | None:
    """The first thing that is wrong, as `models.0.bytes is -1, below 0`; None where all is well."""
    return next(_violations(value, schema, schema, ""), None)


def _violations(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str) -> Iterator[str]:
    for keyword, rule in schema.items():
        if keyword in _BOUNDS:
            kind, holds = _BOUNDS[keyword]
            if _TYPES[kind](value) and not holds(value, rule):
                yield f"{place or 'it'} is {_short(value)}, against {keyword} {rule}"
        elif keyword in _CHECKS:
            yield from _CHECKS[keyword](value, rule, schema, root, place)
    yield from _inside(value, schema, root, place)


def _inside(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], place: str) -> Iterator[str]:
    """Members of objects and arrays."""
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _violations(item, schema["items"], root, f"{place}.{number}".lstrip("."))
    if not isinstance(value, dict):
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, member in value.items():
        rule = known.get(name, others)
        here = f"{place}.{name}".lstrip(".")
        if rule is False:
            yield f"{here} is not known"
        elif rule is not True:
            yield from _violations(member, rule, root, here)


def _type(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    kinds = [rule] if isinstance(rule, str) else rule
    if not any(_TYPES[kind](value) for kind in kinds):
        yield f"{place or 'it'} is {_short(value)}, not {' or '.join(kinds)}"


def _required(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    missing = [name for name in rule if isinstance(value, dict) and name not in value]
    if missing:
        yield f"{place + ' has' if place else 'there is'} no {missing[0]!r}"


def _choice(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    if not any(type(value) is type(choice) and value == choice for choice in rule):
        yield f"{place or 'it'} is {_short(value)}, not {' or '.join(map(str, rule))}"


def _any(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    found = [next(_violations(value, option, root, place), None) for option in rule]
    if all(found):
        yield str(found[0])


def _negated(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    if next(_violations(value, rule, root, place), None) is None:
        yield f"{place or 'it'} has {', '.join(rule.get('required', ['what it must not have']))}, against its status"


def _conditional(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    if next(_violations(value, rule, root, place), None) is None:
        yield from _violations(value, schema["then"], root, place)


def _reference(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    yield from _violations(value, root["$defs"][rule.rpartition("/")[2]], root, place)


def _all(value: Any, rule: Any, schema: Any, root: Any, place: str) -> Iterator[str]:
    for part in rule:
        yield from _violations(value, part, root, place)


_CHECKS: dict[str, Callable[[Any, Any, Any, Any, str], Iterator[str]]] = {
    "type": _type,
    "required": _required,
    "enum": _choice,
    "const": lambda value, rule, *rest: _choice(value, [rule], *rest),
    "anyOf": _any,
    "allOf": _all,
    "not": _negated,
    "if": _conditional,
    "$ref": _reference,
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
