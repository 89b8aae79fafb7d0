"""Two benchmarks of the same kind: what changed from the one to the other.

The reports hold no answers to single images, so the interval of a change takes the two samples as independent: Newcombe
(1998), Statistics in Medicine 17, method 10. On the same images answers of related models agree mostly, and the true
interval is narrower: a change that is called clear is.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import OptionError
from .gates import Gates
from .reading import Saved
from .report import Report

Entry = Mapping[str, Any]
FIGURES = ("bytes", "bits_per_weight", "sparsity", "channel_sparsity", "latency_ms")


def compare(before: Saved, after: Saved, *, gates: Gates, allow_different: bool, report: Report) -> Report:
    """Fill `report` with the second benchmark and what changed; a missed gate makes its exit code 1.

    Gates judge the second benchmark; `max_drop` compares each model with itself in the first, and a model that is gone
    misses it. OptionError where data, threat or number of images differ, unless `allow_different`; then only what both
    measured is compared.
    """
    for saved in (before, after):
        _check(saved)
    different = differences(before.document, after.document)
    if different and gates.max_drop is not None:
        raise OptionError(
            f"--max-drop cannot judge benchmarks that do not measure the same: {different[0]}.",
            "Run both on the same data with the same attacks, or leave the gate out.",
        )
    if different and not allow_different:
        raise OptionError(
            f"{before.path} and {after.path} do not measure the same: {different[0]}.",
            "Run both on the same data with the same attacks, or say --allow-different.",
        )
    document = after.document
    report.recipe = document["recipe"]
    report.content |= {key: document[key] for key in ("data", "threat", "models")}
    report.content |= {key: document[key] for key in ("sweep", "examples") if key in document}
    pairs = matched(before.document["models"], document["models"])
    report.content["baseline"] = None
    report.content["comparison"] = {
        "before": _source(before),
        "after": _source(after),
        "different": different,
        "models": [_changes(old, new, bool(different)) for old, new in pairs if old is not None],
        "added": [new["name"] for old, new in pairs if old is None],
        "removed": _removed(before.document["models"], pairs),
    }
    for text in [*different, *_notes(before.document, document)]:
        report.warn(text)
    for missed in _missed(gates, pairs, report.content["comparison"], before):
        report.miss(missed)
    return report


def differences(before: Entry, after: Entry) -> list[str]:
    """Why accuracies of the two cannot be compared: data, number of images, what the attacks may do."""
    found = []
    for key in ("name", "split", "n", "sha256"):
        if before["data"][key] != after["data"][key]:
            found.append(f"data {key} is {after['data'][key]}, was {before['data'][key]}")
            break  # the others follow from it
    found += [f"{label} was run in one of them only" for label in sorted({*before["threat"]} ^ {*after["threat"]})]
    for label in before["threat"].keys() & after["threat"].keys():
        old, new = before["threat"][label], after["threat"][label]
        facts = [(key, old[key], new[key]) for key in ("name", "norm", "radius")]
        shared = old["options"].keys() & new["options"].keys() - {"eps", "norm"}
        facts += [(key, old["options"][key], new["options"][key]) for key in sorted(shared)]
        found += [f"{label}: {key} is {b}, was {a}" for key, a, b in facts if a != b]
    return found


def matched(before: Sequence[Entry], after: Sequence[Entry]) -> list[tuple[Entry | None, Entry]]:
    """Each model of the second with the one of the first that has its name, else its file's hash."""
    names = {entry["name"]: entry for entry in before}
    left = {entry["sha256"]: entry for entry in before if entry.get("sha256")}
    for entry in after:
        if entry["name"] in names:
            left.pop(names[entry["name"]].get("sha256"), None)
    return [(names.get(entry["name"], left.get(entry.get("sha256"))), entry) for entry in after]


def change(before: Entry, after: Entry) -> dict[str, Any]:
    """Two accuracies, the change from the one to the other with its 95% interval, and whether that leaves out 0."""
    a, b = before["value"], after["value"]
    (a_low, a_high), (b_low, b_high) = before["ci95"], after["ci95"]
    low = b - a - math.hypot(b - b_low, a_high - a)
    high = b - a + math.hypot(b_high - b, a - a_low)
    rounded = [round(max(-1.0, low), 6), round(min(1.0, high), 6)]
    return {"before": before, "after": after, "change": round(b - a, 6), "ci95": rounded, "clear": low > 0 or high < 0}


def _changes(before: Entry, after: Entry, different: bool) -> dict[str, Any]:
    """One model in both benchmarks; the worst case only where the same attacks were run."""
    kinds = ("clean",) if different else ("clean", "worst_case")
    both = {kind: (before[kind], after[kind]) for kind in kinds if before.get(kind) and after.get(kind)}
    shared = [label for label in after["attacks"] if label in before["attacks"]]
    old = {check["id"]: check["status"] for check in before.get("checks") or ()}
    new = {check["id"]: (check["name"], check["status"]) for check in after.get("checks") or ()}
    return {
        "name": after["name"],
        "before_name": before["name"],
        "same_file": bool(after.get("sha256")) and after.get("sha256") == before.get("sha256"),
        **{kind: change(*both[kind]) if kind in both else None for kind in ("clean", "worst_case")},
        "attacks": {label: change(before["attacks"][label], after["attacks"][label]) for label in shared},
        **{key: {"before": before[key], "after": after[key]} for key in FIGURES},
        "checks": [
            {"id": key, "name": name, "before": old[key], "after": status}
            for key, (name, status) in new.items()
            if key in old and old[key] != status
        ],
    }


def _check(saved: Saved) -> None:
    """OptionError where a report is not that of a benchmark that came to its end."""
    document = saved.document
    if document["command"] != "benchmark" or document["status"] not in ("ok", "gate missed"):
        raise OptionError(
            f"{saved.path} is the report of `robustq {document['command']}` with status {document['status']!r}.",
            "Compare benchmarks that came to their end.",
        )
    if "kernels" in document:
        raise OptionError(f"{saved.path} measures packed layers, no models.", "Compare benchmarks of models.")
    names = [entry["name"] for entry in document["models"]]
    if len(set(names)) < len(names):
        raise OptionError(f"{saved.path} has two models of one name.", "Name the files differently and measure again.")


def _source(saved: Saved) -> dict[str, Any]:
    run = saved.document["recipe"].get("run")
    seed = run.get("seed") if isinstance(run, dict) else None
    version = saved.document["environment"]["robustq"]
    return {"path": saved.path, "sha256": saved.sha256, "robustq": version, "seed": seed}


def _removed(before: Sequence[Entry], pairs: Sequence[tuple[Entry | None, Entry]]) -> list[str]:
    kept = {old["name"] for old, _ in pairs if old is not None}
    return [entry["name"] for entry in before if entry["name"] not in kept]


def _notes(before: Entry, after: Entry) -> list[str]:
    """What does not forbid a comparison but may explain it."""
    facts = [(key, before["environment"].get(key), after["environment"].get(key)) for key in ("robustq", "torch")]
    found = [f"{key} is {new}, was {old}" for key, old, new in facts if old != new]
    for label in before["threat"].keys() & after["threat"].keys():
        old, new = before["threat"][label]["options"], after["threat"][label]["options"]
        found += [f"{label}: option {key} is known to one of the two only" for key in sorted(old.keys() ^ new.keys())]
    return found


def _missed(
    gates: Gates, pairs: Sequence[tuple[Entry | None, Entry]], comparison: Mapping[str, Any], before: Saved
) -> list[str]:
    finished = [new for _, new in pairs if new["clean"] and new["bytes"] is not None]
    old = {new["name"]: {**old, "name": f"{old['name']} in {before.path}"} for old, new in pairs if old is not None}
    by_hash = {new.get("parent") for new in finished}
    parents = {new["name"] for new in finished if new.get("sha256") and new["sha256"] in by_hash}
    found = gates.missed(finished, old, parents)
    if gates.max_drop is not None:
        found += [f"{name}: it is no longer measured, which --max-drop asks for" for name in comparison["removed"]]
        unfinished = [entry["name"] for _, entry in pairs if not entry["complete"]]
        found += [f"{name}: it was not measured to the end, which --max-drop asks for" for name in unfinished]
    return found
