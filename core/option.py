"""Method options: a method is a frozen, keyword-only dataclass whose fields are its options.

    @dataclass(frozen=True, kw_only=True)
    class Fgsm(Attack):
        '''One signed gradient step.'''
        SOURCE = "Goodfellow et al. 2015, eq. 1"
        eps: float = option(8 / 255, "L-inf radius", unit="input units in [0, 1]", low=0)

The field's type converts text ("8/255", "true", "first,last"), its metadata checks ranges, `describe` lists both.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar, TypeVar

from .errors import OptionError

T = TypeVar("T", bound="Method")


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
) -> Any:
    """A dataclass field with its help text, unit and inclusive range or list of choices."""
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionInfo:
    """One option as the listings and the documentation show it."""

    name: str
    type: str
    default: Any
    help: str
    unit: str
    choices: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What every attack, objective, compressor, model and exporter is: its options, checked, and its source."""

    SOURCE: ClassVar[str] = ""  # paper and equation, or "robustq" where the method is ours

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self._place(field.name), field, getattr(self, field.name))

    @classmethod
    def _place(cls, option: str) -> str:
        """What errors call an option."""
        return f"{cls.__name__}: {option}"

    def options(self) -> dict[str, Any]:
        """The options as plain JSON values, for recipes, reports and file headers."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def build(cls: type[T], given: Mapping[str, Any]) -> T:
    """Make a method from option values that may be text; raises OptionError naming method, option and value."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    for name in given:
        if name not in known:
            raise OptionError(
                f"{cls.__name__} has no option {name!r}.", f"Its options are: {', '.join(known) or 'none'}."
            )
    hints = typing.get_type_hints(cls)
    values = {name: convert(hints[name], value, f"{cls.__name__}: {name}") for name, value in given.items()}
    required = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in values]
    if required:
        raise OptionError(f"{cls.__name__} needs a value for {', '.join(required)}.")
    return cls(**values)


def describe(cls: type[Method]) -> list[OptionInfo]:
    """The options of a method class, in the order they are declared."""
    hints = typing.get_type_hints(cls)
    return [
        OptionInfo(
            name=f.name,
            type=_type_name(hints[f.name]),
            default=None if f.default is dataclasses.MISSING else _plain(f.default),
            help=f.metadata.get("help", ""),
            unit=f.metadata.get("unit", ""),
            choices=f.metadata.get("choices", ()),
        )
        for f in dataclasses.fields(cls)
    ]


def number(value: Any, what: str) -> float:
    """A finite float from a number or from text, fractions such as "8/255" and "0.5/255" included."""
    try:
        if isinstance(value, str) and "/" in value:
            above, below = value.split("/")
            result = float(above) / float(below)
        else:
            result = float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        remedy = "Write a decimal or a fraction: 0.03 or 8/255."
        raise OptionError(f"{what}: {value!r} is not a number.", remedy) from None
    if result != result or result in (float("inf"), float("-inf")):
        raise OptionError(f"{what}: {value!r} is not a finite number.")
    return result


def convert(hint: Any, value: Any, what: str) -> Any:
    """Turn a value (often text from a flag or a TOML file) into the annotated type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        return _first_that_fits([a for a in args if a is not type(None)], value, what)
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        parts = [parts] if isinstance(parts, (int, float)) else list(parts)
        return tuple(convert(args[0], p.strip() if isinstance(p, str) else p, what) for p in parts if p != "")
    if hint is bool:
        return _boolean(value, what)
    if hint is int:
        found = number(value, what)
        if found != int(found):
            raise OptionError(f"{what}: {value!r} is not a whole number.")
        return int(found)
    if hint is float:
        return number(value, what)
    return str(value) if hint is str else value


def _first_that_fits(hints: list[Any], value: Any, what: str) -> Any:
    for hint in hints[:-1]:
        try:
            return convert(hint, value, what)
        except OptionError:
            continue
    return convert(hints[-1], value, what)


def _boolean(value: Any, what: str) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise OptionError(f"{what}: {value!r} is neither true nor false.") from None


def _check(place: str, field: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = (field.metadata.get(k) for k in ("low", "high", "choices"))
    if choices and value not in choices:
        raise OptionError(f"{place} is {value!r}.", f"It can be one of: {', '.join(str(c) for c in choices)}.")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not (-inf if low is None else low) <= value <= (inf if high is None else high):
        span = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        raise OptionError(f"{place} is {value!r}, outside {span}.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
