"""The diagnostics of a model as lines for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from .text import visible

NOISE = "RQ025"  # accuracy with the noise on and off
_MARKS = {"fail": "FAIL", "warn": "warn", "pass": "pass", "skipped": "skip"}


def lines(model: Mapping[str, Any], verbose: int = 0) -> Iterator[str]:
    """What failed and what is warned of, a line each, and how many passed; with -v all of them."""
    found = model.get("checks") or ()
    for check in found:
        noise = check["id"] == NOISE and model.get("randomized")  # said of every network that draws noise
        if verbose or noise or check["status"] in ("fail", "warn"):
            yield line(model["name"], check)
    counted = {status: sum(check["status"] == status for check in found) for status in _MARKS}
    if found:
        yield (
            f"{visible(model['name'])}: {counted['pass']} checks passed, {counted['warn']} warn, {counted['fail']} "
            f"failed, {counted['skipped']} skipped"
        )


def line(name: str, check: Mapping[str, Any]) -> str:
    """`model: FAIL RQ002 zero-gradient: 80 of 80 images ... What to do.`"""
    said = check.get("message", check.get("reason", ""))
    remedy = f" {visible(check['remedy'])}" if check["remedy"] else ""
    stop = "." if remedy else ""
    return f"{visible(name)}: {_MARKS[check['status']]} {check['id']} {check['name']}: {visible(said)}{stop}{remedy}"
