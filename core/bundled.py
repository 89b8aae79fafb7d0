"""The reference models that come with robustq: one network, adversarially trained, compressed twice, and undefended."""

from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from typing import Any

from .checkpoint import Checkpoint, load
from .errors import InputFileError

DATA = "fashion-mini"
MODELS = ("float", "4-bit", "ternary", "undefended")


def model(name: str) -> Checkpoint:
    """One of `MODELS`; InputFileError where the installation lacks it."""
    place = files("robustq.core") / "data" / f"{name}.rq.safetensors"
    if not place.is_file():
        raise InputFileError(
            f"The bundled model {name!r} is missing from this installation.",
            "Install robustq again, or name a model: robustq bench MODEL --data NAME.",
        )
    with as_file(place) as path:
        return load(path)


def story(entries: Sequence[Mapping[str, Any]]) -> str | None:
    """What the table of the bundled models shows, from its figures; None before all four are attacked."""
    found = {entry["name"]: entry for entry in entries if entry.get("worst_case") and entry.get("complete")}
    if set(found) != set(MODELS):
        return None
    robust = {name: 100 * entry["worst_case"]["value"] for name, entry in found.items()}
    broken = robust["undefended"] < 10
    first = (
        f"The attack breaks the undefended network ({robust['undefended']:.1f}%), so it is worth withstanding."
        if broken
        else f"The attack leaves the undefended network {robust['undefended']:.1f}%: too weak to prove anything."
    )
    smaller = found["float"]["bytes"] / found["ternary"]["bytes"]
    second = (
        f"Ternary weights are {smaller:.1f} times smaller than the float ones they come from, and keep"
        f" {robust['ternary']:.1f}% of images safe where those keep {robust['float']:.1f}%."
    )
    return f"{first} {second}"
