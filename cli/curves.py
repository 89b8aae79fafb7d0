"""The curves of a training run as numbers, and as a CSV file."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

ACCURACIES = ("clean", "robust", "clean_noise_on", "robust_noise_on")


def series(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Every other quantity that is a number in some epoch: name -> one value an epoch."""
    names = dict.fromkeys(name for entry in history for name, value in entry.items() if _number(value))
    return {name: [_value(entry.get(name)) for entry in history] for name in names if name != "epoch"}


def accuracies(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """The accuracies that some epoch has."""
    return [name for name in ACCURACIES if any(known(entry.get(name)) for entry in history)]


def known(found: Any) -> Mapping[str, Any] | None:
    """An accuracy that is one: of these a report may hold more than its schema describes."""
    return found if isinstance(found, Mapping) and {"value", "ci95", "n"} <= found.keys() else None


def render(report: Mapping[str, Any]) -> str:
    """One row an epoch; an accuracy takes four columns: the share, both ends of its 95% interval, the images."""
    history: Sequence[Mapping[str, Any]] = report.get("history") or ()
    present = accuracies(history)
    numbers = series(history)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [f"{name}{part}" for name in present for part in ("", "_low", "_high", "_n")]
    writer.writerow(["epoch", *numbers, *heads])
    for place, entry in enumerate(history):
        row = [entry["epoch"], *("" if found[place] is None else found[place] for found in numbers.values())]
        for name in present:
            found = known(entry.get(name))
            row += [found["value"], *found["ci95"], found["n"]] if found else [""] * 4
        writer.writerow(row)
    return buffer.getvalue()


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _value(value: Any) -> float | None:
    return value if _number(value) else None
