"""The small validator agrees with the library that the tests have."""

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core import schema
from robustq.core.report import Proportion, Report

SCHEMA = json.loads((files("robustq.core") / "data" / "report.schema.json").read_text(encoding="utf-8"))
LIBRARY = jsonschema.Draft202012Validator(SCHEMA)
JUNK = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just([])


def keywords(rule: Any) -> set[str]:
    """All keywords of a schema."""
    if isinstance(rule, list):
        return set().union(*(keywords(part) for part in rule))
    if not isinstance(rule, dict):
        return set()
    found = set(rule)
    for key, part in rule.items():
        inner = part.values() if key in ("properties", "$defs") else [part]
        found = found.union(*(keywords(p) for p in inner))
    return found


def report() -> dict[str, Any]:
    accuracy = Proportion(3, 4).to_dict()
    made = Report("benchmark", {"run": {"seed": 0}})
    entry = {
        "name": "m", "clean": accuracy, "attacks": {"pgd": accuracy}, "worst_case": accuracy, "bytes": 10,
        "bits_per_weight": 2.0, "sparsity": 0.5, "channel_sparsity": None, "latency_ms": 0.1, "latency": {"1": 0.1},
        "randomized": False, "details": {}, "warnings": [], "complete": True,
    }  # fmt: skip
    threat = {"name": "Pgd", "norm": "linf", "radius": 0.1, "options": {}}
    data = {"name": "d", "split": "test", "n": 4, "sha256": "0"}
    made.content = {"data": data, "threat": {"pgd": threat}, "baseline": None, "models": [entry]}
    return json.loads(made.to_json())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, member in inner for place in places(member, (*path, key)))]


def test_all_keywords_are_understood() -> None:
    members = {"properties", "additionalProperties", "items"}
    notes = {"$schema", "$defs", "title", "description", "then"}
    assert keywords(SCHEMA) <= {*schema._CHECKS, *schema._BOUNDS} | members | notes


def test_a_report_is_valid() -> None:
    assert schema.violation(report(), SCHEMA) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_report_is_judged_as_the_library_judges_it(data: st.DataObject) -> None:
    found = report()
    path = data.draw(st.sampled_from(places(found)[1:]))
    parent = found
    for step in path[:-1]:
        parent = parent[step]
    if data.draw(st.booleans()):
        del parent[path[-1]]
    else:
        parent[path[-1]] = data.draw(JUNK)
    before = copy.deepcopy(found)
    assert (schema.violation(found, SCHEMA) is None) == LIBRARY.is_valid(found)
    assert found == before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("models", 0, "bytes"), -1, "models.0.bytes is -1, against minimum 0"),
        (("models", 0, "name"), 3, "models.0.name is 3, not string"),
        (("models", 0, "extra"), 3, "models.0.extra is not known"),
        (("status",), "fine", "status is 'fine'"),
        (("error",), {}, "error"),
    ],
)
def test_what_is_wrong_is_named(path: tuple[Any, ...], value: Any, words: str) -> None:
    found = report()
    parent: Any = found
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    assert words in str(schema.violation(found, SCHEMA))
