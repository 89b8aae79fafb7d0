"""The headline: one card a model with its worst case, what it started from, and its size."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..tables import size
from .chart import swatch
from .markup import Markup, tag

Entry = Mapping[str, Any]


def cards(entries: Sequence[Entry]) -> Markup:
    """The worst case over all attacks in large figures; without attacks the clean accuracy."""
    by_hash = {entry["sha256"]: entry for entry in entries if entry.get("sha256")}
    return tag("div", *(_card(n, entry, by_hash.get(entry.get("parent"))) for n, entry in enumerate(entries)),
               class_="cards")  # fmt: skip


def _card(number: int, entry: Entry, parent: Entry | None) -> Markup:
    worst, clean = entry["worst_case"], entry["clean"]
    shown, what = (worst, _against(entry)) if worst else (clean, "right, no attack was run")
    figures: list[Markup] = []
    if shown:
        low, high = (f"{100 * end:.1f}" for end in shown["ci95"])
        figures = [
            tag("p", f"{100 * shown['value']:.1f}", tag("span", "%"), class_="big"),
            tag("p", what, tag("br"), f"95% interval {low} to {high}%, {shown['n']:,} images", class_="note"),
            _bar(shown, clean if worst else None),
        ]
    facts = [f"clean {100 * clean['value']:.1f}%"] if clean and worst else []
    facts += [size(entry["bytes"])] if entry["bytes"] else []
    if parent and parent["bytes"] and entry["bytes"]:
        facts.append(f"{parent['bytes'] / entry['bytes']:.1f}x smaller than {parent['name']}")
    facts += [] if entry["complete"] else ["unfinished"]
    name = tag("h3", swatch(number), entry["name"])
    return tag("article", name, *figures, _doubts(entry), tag("p", " · ".join(facts), class_="facts"), class_="card")


def _against(entry: Entry) -> str:
    attacks = list(entry["attacks"])
    return f"withstand {attacks[0]}" if len(attacks) == 1 else f"withstand all {len(attacks)} attacks"


def _doubts(entry: Entry) -> Markup | None:
    """Checks that fail stand beside the figure they cast doubt on."""
    failed = [check["name"] for check in entry.get("checks") or () if check["status"] == "fail"]
    if not failed:
        return None
    count = f"{len(failed)} checks fail" if len(failed) > 1 else "1 check fails"
    return tag("p", tag("span", count, class_="badge bad"), f" {', '.join(failed)}", class_="facts")


def _bar(shown: Entry, clean: Entry | None) -> Markup:
    """A strip from 0 to 100%: pale up to the clean accuracy, full up to the worst case, its interval on top."""
    low, high = (100 * end for end in shown["ci95"])
    strips = [
        tag("rect", x=0, y=3, width=100, height=6, class_="track"),
        tag("rect", x=0, y=3, width=100 * clean["value"], height=6, class_="pale") if clean else None,
        tag("rect", x=0, y=3, width=100 * shown["value"], height=6, class_="full"),
        tag("rect", x=low, y=5, width=max(0.6, high - low), height=2, class_="interval"),
    ]
    return tag("svg", *strips, viewBox="0 0 100 12", preserveAspectRatio="none", class_="strip", aria_hidden="true")
