"""HTML and SVG from plain calls. Text becomes markup only here, and only escaped."""

import html
from collections.abc import Iterable
from typing import Any

from ..text import visible

VOID = {"meta", "img", "br"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. Children are text (escaped), markup, or iterables of them; None is left out, of attributes too.

    `class_` is written class, an underscore inside a name as a dash; True gives an attribute without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    return Markup(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Markup:
    """Children one after another."""
    return Markup("".join(_child(child) for child in children))


def _child(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (str, int, float)):
        return html.escape(visible(child))
    return join(child)


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else visible(value)
    return f' {name}="{html.escape(text)}"'
