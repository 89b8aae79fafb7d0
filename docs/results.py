"""The page results.md from examples/results/rows.toml and results/*.json."""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "results.md"
DRIVER = HERE.parent / "examples" / "results" / "run.py"
HEAD = """<!-- Written by `python docs/generate.py` from docs/results/*.json; edit neither. -->
# Results

Each row is a recipe in `examples/results/`; `python examples/results/run.py ROW --data-dir DATA --out runs` trains and
measures it again and writes `docs/results/ROW.json`: the commands, seeds, SHA-256 of recipe, start, model and data,
versions, processor, wall and CPU seconds, every epoch, every attack with its options. Intervals are 95% Wilson
intervals of one seed; where several seeds are named figures are means, with the seeds' range. Robust accuracy is the
worst case of each image over all attacks of the row. Hyper-parameters and checkpoints were chosen on a validation part
of the training images; test images were used once, unless a note says otherwise.

Runs are exact only on the same processor, torch version and thread count; elsewhere figures move by about a point.
"""
MEASURES = {
    "clean": ("clean accuracy", "%"),
    "robust": ("robust accuracy", "%"),
    "bytes": ("bytes", ""),
    "channels": ("zero channels", "%"),
    "zeros": ("zero weights", "%"),
    "smaller": ("times smaller", ""),
}
QUIET = "noise off"
Row = dict[str, Any]


def page(table: dict[str, Any], records: dict[str, Any]) -> str:
    """The whole document; records: {row: content of its JSON file}."""
    parts = [HEAD]
    for group in table["group"]:
        rows = [row for row in table["row"] if row["group"] == group["name"]]
        targets = [t for t in table["target"] if t["row"] in {row["name"] for row in rows}]
        parts += [f"## {group['title']}\n", group["text"].strip() + "\n"]
        parts += ["\n".join(measured(rows, records)) + "\n", "\n".join(judged(targets, table, records)) + "\n"]
        parts += [group["note"].strip() + "\n"] if "note" in group else []
    return "\n".join(part for part in parts if part.strip())


def measured(rows: list[Row], records: dict[str, Any]) -> Iterator[str]:
    """The table of a group's rows."""
    yield "| row | clean | robust | bytes | zero weights | zero channels | latency | training |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        record = records.get(row["name"])
        if record is None:
            yield f"| {row['title']} (`{row['name']}`) | not run | | | | | | |"
            continue
        views = list(record["runs"][0]["measured"])
        for label in views:
            name = f"{row['title']} (`{row['name']}`)" if label == "default" else f"the same, {label}"
            yield f"| {name} | {' | '.join(figures(record, label))} |"
        if QUIET not in views and len(record["runs"][0]["measured"]["default"]["models"]) > 1:
            yield f"| the same, {QUIET} | {' | '.join(figures(record, 'default', 1))} |"


def figures(record: dict[str, Any], label: str, place: int = 0) -> Iterator[str]:
    """The cells of one line; place 1 is the same model without its noise."""
    entries = [run["measured"][label]["models"][place] for run in record["runs"]]
    yield accuracy([entry["clean"] for entry in entries])
    robust = [entry["worst_case"] for entry in entries]
    yield accuracy(robust) if all(robust) else ""
    first = label == "default" and place == 0
    yield f"{round(mean(run['bytes'] for run in record['runs'])):,}" if first else ""
    yield f"{100 * mean(entry['sparsity'] or 0 for entry in entries):.1f}%"
    yield f"{100 * mean(entry['channel_sparsity'] or 0 for entry in entries):.1f}%"
    yield latency(entries[0])
    spent = [run["train_seconds"] for run in record["runs"] if "train_seconds" in run]
    yield f"{mean(s['cpu'] for s in spent) / 60:.1f} min" if spent and first else ""


def accuracy(found: list[Any]) -> str:
    """One seed with its interval, several with their range."""
    values = [100 * one["value"] for one in found]
    if len(values) == 1:
        low, high = (100 * end for end in found[0]["ci95"])
        return f"{values[0]:.1f}% [{low:.1f}, {high:.1f}]"
    return f"{mean(values):.2f}% ({min(values):.2f} to {max(values):.2f})"


def latency(entry: dict[str, Any]) -> str:
    """Milliseconds of one image: dense weights, and from packed ones where there are any."""
    packed = entry.get("packed")
    dense = f"{entry['latency_ms']:.2f} ms"
    return f"{dense}, packed {packed['latency_ms']:.2f} ms" if packed else dense


def judged(targets: list[Row], table: dict[str, Any], records: dict[str, Any]) -> Iterator[str]:
    """The table of a group's targets."""
    if not targets:
        return
    titles = {row["name"]: row["title"] for row in table["row"]}
    yield "| target | found | |"
    yield "|---|---|---|"
    for target in targets:
        what, unit = MEASURES[target["measure"]]
        of = f"{titles[target['row']]}: {what}"
        points = unit and "against" in target
        if "against" in target:
            of += f" {'less that' if points else 'than the file'} of {titles[target['against']]}"
        bound, limit = ("at least", target["at_least"]) if "at_least" in target else ("at most", target["at_most"])
        shown = f"{limit:,}" + (" points" if points else unit)
        found = value(target, records)
        if found is None:
            yield f"| {of}, {bound} {shown} | | not run |"
            continue
        met = found >= limit if "at_least" in target else found <= limit
        digits = (
            f"{found:+.2f} points"
            if points
            else f"{found:,.0f}"
            if unit == "" and found > 1000
            else f"{found:.1f}{unit}"
        )
        yield f"| {of}, {bound} {shown} | {digits} | {'met' if met else '**missed**'} |"


def value(target: Row, records: dict[str, Any]) -> float | None:
    """What a target is judged by: percent, points, bytes or a ratio; None where a row is not recorded."""
    rows = [target["row"], *([target["against"]] if "against" in target else [])]
    if any(row not in records for row in rows):
        return None
    if target["measure"] == "smaller":
        small, large = (of(records[row], "bytes") for row in rows)
        return large / small
    first, *rest = (of(records[row], target["measure"], target.get("view", "default")) for row in rows)
    return first - sum(rest)


def of(record: dict[str, Any], measure: str, label: str = "default") -> float:
    """A row's measure, the mean over its seeds."""
    if measure == "bytes":
        return mean(run["bytes"] for run in record["runs"])
    entries = [run["measured"][label]["models"][0] for run in record["runs"]]
    places = {"clean": "clean", "robust": "worst_case", "channels": "channel_sparsity", "zeros": "sparsity"}
    found: Iterable[Any] = (entry[places[measure]] for entry in entries)
    return 100 * mean(one["value"] if isinstance(one, dict) else one for one in found)


def rows() -> dict[str, Any]:
    """rows.toml, as the driver reads it."""
    spec = importlib.util.spec_from_file_location("results_driver", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    return driver.table()


def recorded() -> dict[str, Any]:
    """{row: content of its JSON file}."""
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((HERE / "results").glob("*.json"))}
