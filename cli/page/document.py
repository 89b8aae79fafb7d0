"""The page of a report: its sections, and the frame around them."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from .. import grids, toml
from ..phrases import chosen, compared, conditions, images, outcome, setting, threat
from ..tables import accuracy
from ..text import visible
from .cards import cards
from .gallery import gallery
from .markup import Markup, tag
from .measured import curves, tradeoff
from .tables import table
from .trained import charts

Report = Mapping[str, Any]
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a page of figures needs nothing else
MANY = 40  # rows from which on a table is folded


def render(report: Report) -> str:
    """The document of a report as `Report.to_dict` gives it."""
    body = _BODIES.get(report["command"])
    sections = [*_failures(report), *(body(report) if body else ()), *_warnings(report), _conditions(report)]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"robustq {report['command']}"),
        tag("style", Markup((files(__package__ or "") / "style.css").read_text(encoding="utf-8"))),
    )
    name = tag("p", tag("span", "robustq", class_="brand"), f" {report['command']}", class_="kicker")
    header = tag("header", name, tag("h1", _title(report)), tag("p", _subtitle(report), class_="lead"))
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', header, *sections)), lang='en')}\n"


def _title(report: Report) -> str:
    if "kernels" in report:
        return "Packed layers on this machine"
    if "comparison" in report:
        return "What changed between two benchmarks"
    if report["command"] == "benchmark":
        found = [entry for entry in report.get("models") or () if entry["worst_case"]]
        return "How much survives the attack" if found else "Accuracy of the models"
    if report["command"] not in ("compress", "train"):
        return f"Report of {report['command']}"
    output = (report.get("output") or {}).get("path")
    return output if output and output != "-" else "Compressed model"


def _subtitle(report: Report) -> str:
    if report["command"] == "attack" and "threat" in report:
        return f"{images(report['data'])}; {threat(report['threat']['name'].lower(), report['threat'])}"
    if "threat" in report:
        return "; ".join(setting(report, report["recipe"]))
    source, written = report.get("input"), report.get("bytes")
    if source and written:
        ratio = f" ({source['bytes'] / written:.1f} times smaller)" if written < source["bytes"] else ""
        return f"{source['name']}, {source['bytes']:,} bytes, became {written:,} bytes{ratio}"
    return f"{written:,} bytes" if written else ""


def _benchmark(report: Report) -> Iterator[Markup]:
    entries: Sequence[Report] = report.get("models") or ()
    if rows := report.get("kernels"):
        yield _section("Layers", table(grids.kernels(rows), "Time of each layer, of other libraries as its multiple"))
    if comparison := report.get("comparison"):
        changed = table(grids.comparison(comparison), "What changed from the first benchmark to the second")
        yield _section("What changed", changed, *_notes(compared(comparison)))
    if not entries:
        return
    yield cards(entries)
    if report.get("story"):
        yield tag("p", report["story"], class_="story")
    against = [f"{name} is compared with {other}." for name, other in (report.get("baseline") or {}).items()]
    yield _section("Side by side", table(grids.models(report), "Accuracy, size and latency"), *_notes(against))
    figures = [*_sweep(report, entries), *_sizes(entries)]
    yield tag("section", tag("h2", "At a glance"), tag("div", *figures, class_="figures"))
    if report.get("examples"):
        yield _section("Images", gallery(report["examples"], entries))
    if diagnosed := [entry for entry in entries if entry.get("checks")]:
        yield _section("Diagnostics", *(_checks(entry) for entry in diagnosed))
    if (costs := grids.costs(entries)).rows:
        yield _section("What the attacks cost", _folded("Passes and seconds", table(costs, "Cost of each attack")))


def _sweep(report: Report, entries: Sequence[Report]) -> Iterator[Markup]:
    swept = [entry for entry in entries if entry.get("curve")]
    if not swept or not report.get("sweep"):
        return
    sweep = report["sweep"]
    asked = (report["threat"].get(sweep["attack"]) or {}).get("radius")
    words = f"{sweep['attack']} at several radii on the first {sweep['n']:,} images, with 95% intervals"
    yield _figure("Accuracy against the radius", words, curves(sweep, swept, asked))


def _sizes(entries: Sequence[Report]) -> Iterator[Markup]:
    if drawn := tradeoff(entries):
        yield _figure("Robustness against size", "with 95% intervals", drawn)


def _checks(entry: Report) -> Markup:
    found = entry["checks"]
    failed = any(check["status"] == "fail" for check in found)
    return _folded(
        f"{entry['name']}: {outcome(found)}", table(grids.checks(entry), f"Diagnostics of {entry['name']}"), failed
    )


def _making(report: Report) -> Iterator[Markup]:
    if measured := report.get("accuracy"):
        before, after = (accuracy(measured[when]) for when in ("before", "after"))
        yield tag("p", f"Accuracy on {images(measured['data'])}: {before} before, {after} after.", class_="story")
    if report.get("bytes") is not None:
        yield _section("Size", table(grids.sizes(report), "Bytes, bits and zeros"))
    if history := report.get("history"):
        kept = chosen(report)
        drawn = [_figure(caption, "", chart) for caption, chart in charts(history, kept)]
        made = table(grids.epochs(history, kept), "One row an epoch")
        yield _section("Training", tag("div", *drawn, class_="figures"), _folded("Every epoch", made))
    if layers := report.get("layers"):
        made = table(grids.layers(layers), "Error and storage of each layer")
        yield _section("Layers", _folded(f"All {len(layers)} layers", made) if len(layers) > MANY else made)


def _attack(report: Report) -> Iterator[Markup]:
    if "norms" in report:
        yield _section("What was fooled", table(grids.attack(report), "Accuracy and norms of one attack"))


_BODIES = {"benchmark": _benchmark, "compress": _making, "train": _making, "attack": _attack}


def _failures(report: Report) -> Iterator[Markup]:
    if error := report["error"]:
        yield tag("p", tag("strong", f"{report['status']}: "), error["problem"], " ", error["remedy"], class_="alert")
    for missed in report.get("gates_missed") or ():
        yield tag("p", tag("strong", "Gate missed: "), missed, class_="alert")


def _warnings(report: Report) -> Iterator[Markup]:
    if report["warnings"]:
        yield _section("Warnings", tag("ul", *(tag("li", text) for text in report["warnings"]), class_="warnings"))


def _conditions(report: Report) -> Markup:
    facts = tag("ul", *(tag("li", line) for line in conditions(report)), class_="facts")
    if not report["recipe"]:
        return _section("Conditions", facts)
    words = "To run the same again, save the recipe, and name it and the files above: "
    again = tag("p", words, tag("code", _again(report)))
    text = "\n".join(visible(line) for line in toml.dumps(report["recipe"]).splitlines())
    return _section("Conditions", facts, again, _folded("recipe.toml", tag("pre", text)))


def _again(report: Report) -> str:
    arguments = {"benchmark": "MODEL...", "compress": "MODEL", "attack": "MODEL"}.get(report["command"], "")
    return " ".join(f"robustq {report['command']} {arguments} --recipe recipe.toml".split())


def _section(title: str, *content: Markup) -> Markup:
    return tag("section", tag("h2", title), *content)


def _figure(title: str, words: str, drawn: Markup) -> Markup:
    return tag("figure", tag("figcaption", tag("strong", title), f" {words}".rstrip()), drawn)


def _folded(summary: str, inside: Markup, open_: bool = False) -> Markup:
    return tag("details", tag("summary", summary), inside, open=open_)


def _notes(lines: Sequence[str]) -> list[Markup]:
    return [tag("p", line, class_="note") for line in lines]
