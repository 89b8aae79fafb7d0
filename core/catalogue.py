"""The list of all methods with their options, as `robustq methods` and the documentation show it."""

import dataclasses
from typing import Any

from . import registry
from .errors import UnknownNameError
from .option import describe


def catalogue(kind: str | None = None) -> list[dict[str, Any]]:
    """One entry a method: kind, name, summary, options (name, type, default, help, unit, choices), source.

    `kind` is one of `registry.kinds()`; UnknownNameError otherwise.
    """
    if kind is not None and kind not in registry.kinds():
        hint = registry.suggest(kind, registry.kinds())
        raise UnknownNameError(f"There is no kind of method named {kind!r}.", hint)
    return [entry(k, name) for k in registry.kinds() if kind in (None, k) for name in registry.names(k)]


def entry(kind: str, name: str) -> dict[str, Any]:
    """What is known of one method."""
    method = registry.find(name, kind)
    return {
        "kind": kind,
        "name": name,
        "summary": (method.__doc__ or "").strip().partition("\n")[0],
        "options": [dataclasses.asdict(info) for info in describe(method)],
        "source": method.SOURCE,
    }
