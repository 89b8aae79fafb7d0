"""The listings of `robustq inspect` and `robustq methods`, on standard output."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding

from .tables import NONE, figure, shape, table
from .text import visible

SHOWN_NAMES = 8  # of what an unsafe file would import
SAFE = {True: "yes: it runs no code", False: "NO", None: "it is a program; robustq does not run it"}


def show_file(content: Mapping[str, Any], console: Console) -> None:
    """What `core.inspection.inspect` found: the file, its tensors one a line, the totals, where it comes from."""
    console.print(f"{visible(content['path'])}: {content['description']}, {content['bytes']:,} bytes")
    console.print(f"sha256   {content['sha256']}")
    console.print(f"safe     {SAFE[content['safe']]}{_imports(content['unsafe'])}")
    console.print("loads    yes" if content["loadable"] else f"loads    no: {visible(content['reason'])}")
    for note in content["notes"]:
        console.print(f"note     {visible(note)}")
    for name, value in content["meta"].items():
        console.print(f"{name:<8} {visible(_fact(value))}")
    if not content["tensors"]:
        return
    console.print()
    listed = table("tensor", "shape", "type", "stored as", "zeros", "bytes", "bits/weight", left=4)
    for row in content["tensors"]:
        listed.add_row(
            visible(row["name"]),
            shape(row["shape"]),
            row["dtype"],
            _stored(row),
            *(NONE if row[key] is None else f"{row[key]:,}" for key in ("zeros", "bytes")),
            figure(row["bits"]),
        )
    console.print(listed)
    for name, target in content["aliases"].items():
        console.print(f"{visible(name)} is tied to {visible(target)}")
    console.print(_totals(content["totals"]))


def _imports(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f": loading it would import {visible(', '.join(names[:SHOWN_NAMES]))}{more}"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        if "name" in value:  # a method with its options: its name first
            value = {"name": value["name"], **value}
        return ", ".join(f"{name} {_inner(inner)}" for name, inner in value.items())
    return ", ".join(_fact(part) for part in value) if isinstance(value, list) else str(value)


def _inner(value: Any) -> str:
    return f"({_fact(value)})" if isinstance(value, Mapping) else str(value)


def _stored(row: Mapping[str, Any]) -> str:
    how = [part for part in (row["alphabet"], row["encoding"]) if part]
    return f"{row['scheme']}: {', '.join(how)}" if how else str(row["scheme"])


def _totals(totals: Mapping[str, Any]) -> str:
    line = f"{totals['tensors']} tensors, {totals['weights']:,} values"
    if totals["zeros"] is not None and totals["weights"]:
        line += f", {100 * totals['zeros'] / totals['weights']:.1f}% zeros"
    if totals["bytes"] is not None:
        line += f", {totals['bytes']:,} bytes and {totals['overhead']:,} of header"
    return line + (f", {totals['bits']:.2f} bits a value" if totals["bits"] is not None else "")


def show_methods(found: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The entries of `core.catalogue`: one heading a kind, then each method with its options."""
    kind = None
    for entry in found:
        if entry["kind"] != kind:
            kind = entry["kind"]
            console.print(f"{entry['kind'].upper()}S")
        console.print(f"  {entry['name']}  {entry['summary']}")
        if entry["source"]:
            console.print(Padding(f"source: {entry['source']}", (0, 0, 0, 6), expand=False))
        for option in entry["options"]:
            console.print(Padding(option_line(option), (0, 0, 0, 6), expand=False))
        console.print()


def option_line(option: Mapping[str, Any]) -> str:
    """`steps = 40 (int): number of steps`."""
    default = "required" if is_required(option) else default_of(option)
    line = f"{option['name']} = {default} ({option['type']})"
    line += f": {option['help']}" if option["help"] else ""
    line += f", in {option['unit']}" if option["unit"] else ""
    return line + (f"; one of {', '.join(str(c) for c in option['choices'])}" if option["choices"] else "")


def is_required(option: Mapping[str, Any]) -> bool:
    return option["default"] is None and "None" not in option["type"]


def default_of(option: Mapping[str, Any]) -> str:
    """The default as it is typed on the command line."""
    value = option["default"]
    if isinstance(value, list):
        return ",".join(str(part) for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
