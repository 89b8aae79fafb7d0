"""The listing of methods."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from robustq.cli.listings import default_of, is_required, option_line
from robustq.core.registry import TABLE


def test_json_is_a_list_with_every_method(robustq: Callable[..., Any]) -> None:
    found = json.loads(robustq("methods", "--json").out)
    assert [(entry["kind"], entry["name"]) for entry in found] == [(k, n) for k, names in TABLE.items() for n in names]
    for entry in found:
        assert set(entry) == {"kind", "name", "summary", "options", "source"}
        assert entry["summary"]
        for option in entry["options"]:
            assert option["help"], f"{entry['name']}: {option['name']}"


def test_one_kind(robustq: Callable[..., Any]) -> None:
    found = robustq("methods", "attack")
    assert found.code == 0
    assert "ATTACKS" in found.out
    assert "steps = 40 (int)" in found.out
    assert "Madry et al. 2018" in found.out
    assert "OBJECTIVES" not in found.out
    assert found.err == ""


def test_unknown_kind_fails_with_one_document(robustq: Callable[..., Any]) -> None:
    found = robustq("methods", "magic", "--json")
    assert found.code == 2
    assert found.report["error"]["type"] == "UnknownNameError"


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (1, "1"), (1.0, "1"), (0.03, "0.03"), (None, "none"), ([0.5, 0.75], "0.5,0.75"), ("ce", "ce")],
)
def test_defaults_as_they_are_typed(value: object, text: str) -> None:
    assert default_of({"default": value}) == text


def test_option_lines() -> None:
    option = {"name": "eps", "type": "float", "default": None, "help": "radius", "unit": "pixels", "choices": (1, 2)}
    assert is_required(option)
    assert not is_required({**option, "type": "float | None"})
    assert option_line(option) == "eps = required (float): radius, in pixels; one of 1, 2"
