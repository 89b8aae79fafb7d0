"""What is on the page, without a browser."""

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.cli import curves
from robustq.cli.page import document
from robustq.cli.page.markup import VOID

SCHEMA = json.loads((files("robustq.core") / "data" / "report.schema.json").read_text(encoding="utf-8"))


class Outline(HTMLParser):
    """Whether every element is closed where it should be, and what is on the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_a_benchmark(benchmark: dict[str, Any]) -> None:
    jsonschema.validate(benchmark, SCHEMA, jsonschema.Draft202012Validator)  # else the test shows what cannot be
    page = Outline(document.render(benchmark))
    tags = [tag for tag, _ in page.seen]
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in page.seen for name in attributes)
    sources = [value for _, attributes in page.seen for name, value in attributes.items() if name in ("src", "href")]
    assert sources
    assert all(str(source).startswith("data:image/png;base64,") for source in sources)
    for entry in benchmark["models"]:
        assert f"{100 * entry['worst_case']['value']:.1f}" in page.text
        assert entry["sha256"] in page.text
    for words in (
        "Gate missed",
        "beware",
        "radius 0.1",
        "95% interval 77.4 to 82.4%",
        "seed 3",
        "1 check fails",
        "do something",
    ):
        assert words in page.text


def test_a_run_without_attacks_or_sizes(benchmark: dict[str, Any]) -> None:
    bare = {**benchmark, "threat": {}, "models": []}
    for key in ("sweep", "examples"):
        del bare[key]
    for entry in benchmark["models"]:
        empty = {"attacks": {}, "worst_case": None, "details": {}, "bytes": 0, "clean": None, "complete": False}
        bare["models"].append({**entry, **empty})
    assert "unfinished" in Outline(document.render(bare)).text
    assert "robustq" in Outline(document.render({**bare, "models": []})).text


def test_a_failure_is_shown(benchmark: dict[str, Any]) -> None:
    error = {"type": "DataError", "problem": "It <broke>.", "remedy": "Mend it."}
    page = Outline(document.render({**benchmark, "status": "error", "error": error, "models": []}))
    assert "It <broke>." in page.text


@pytest.mark.parametrize("epochs", [1, 2, 12])
def test_the_page_of_a_training(training: dict[str, Any], epochs: int) -> None:
    page = Outline(document.render({**training, "history": training["history"][:epochs]}))
    assert sum(tag == "svg" and attributes.get("role") == "img" for tag, attributes in page.seen) == 4
    assert "chosen" in page.text
    assert "quantized" in page.text


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_valid_figures_make_a_page(data: st.DataObject) -> None:
    """Names, sizes, radii and accuracies are drawn; whatever is valid is rendered."""
    share = st.floats(0, 1, allow_nan=False)
    accuracy = st.tuples(share, share, share).map(lambda v: {"value": v[0], "ci95": sorted(v[1:]), "n": 7})
    number = st.floats(0, 1e300, allow_nan=False)
    entry = st.fixed_dictionaries(
        {
            "name": st.text(max_size=30), "clean": accuracy, "attacks": st.dictionaries(st.text(max_size=5), accuracy),
            "worst_case": st.none() | accuracy, "bytes": st.integers(0, 2**62), "bits_per_weight": st.none() | number,
            "sparsity": share, "channel_sparsity": share, "latency_ms": number, "latency": st.just({}),
            "randomized": st.booleans(), "details": st.just({}), "warnings": st.just([]), "complete": st.booleans(),
            "curve": st.lists(st.fixed_dictionaries({"eps": number, "accuracy": accuracy}), min_size=1, max_size=4),
        }
    )  # fmt: skip
    environment = {"robustq": "1", "python": "3", "platform": data.draw(st.text(max_size=9)), "machine": "m"}
    found = {
        "schema": "robustq.report/1", "command": "benchmark", "status": "ok", "exit_code": 0, "recipe": {},
        "environment": environment, "warnings": data.draw(st.lists(st.text(max_size=9), max_size=2)), "error": None,
        "data": {"name": "d", "split": "test", "n": 7, "sha256": "0"}, "baseline": None,
        "threat": {"pgd": {"name": "Pgd", "norm": "linf", "radius": data.draw(number), "options": {}}},
        "models": data.draw(st.lists(entry, max_size=4)),
        "sweep": {"attack": "pgd", "name": "pgd", "norm": "linf", "options": {}, "n": 7, "radii": []},
    }  # fmt: skip
    jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
    assert "nan" not in re.sub(r"<[^>]*>", "", document.render(found)).split()


def test_curves_as_csv(training: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(curves.render(training))))
    assert len(rows) == len(training["history"])
    for row, entry in zip(rows, training["history"], strict=True):
        assert int(row["epoch"]) == entry["epoch"]
        assert float(row["loss"]) == entry["loss"]
        assert float(row["sparsity"]) == entry["sparsity"]
        assert [float(row[f"robust{part}"]) for part in ("", "_low", "_high", "_n")] == [
            entry["robust"]["value"], *entry["robust"]["ci95"], entry["robust"]["n"],
        ]  # fmt: skip
    assert curves.render({"history": []}) == "epoch\n"


def test_documents_of_a_training_run(robustq: Callable[..., Any], plain: Path, quadrants: str, tmp_path: Path) -> None:
    line = ("compress", plain, "--method", "binary-relax", "--bits", "2", "--data", quadrants, "--epochs", "2")
    found = robustq(*line, "-o", "small", "--csv", "c.csv", "--html", "r.html", "--markdown", "r.md", "--json")
    history = found.report["history"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    assert [float(row["loss"]) for row in rows] == [entry["loss"] for entry in history]
    page = Outline((tmp_path / "r.html").read_text())
    assert f"{found.report['bytes']:,} bytes" in page.text
    assert "| conv2.weight |" in (tmp_path / "r.md").read_text().replace("\\", "")


def test_the_page_of_a_measurement(robustq: Callable[..., Any], plain: Path, quadrants: str, tmp_path: Path) -> None:
    line = ("bench", plain, "--data", quadrants, "--attack", "pgd", "--steps", "3", "--eps", "0.1", "--limit", "12")
    report = robustq(*line, "--html", "r.html", "--sweep-limit", "8", "--checks", "none", "--json").report
    assert [point["accuracy"]["n"] for point in report["models"][0]["curve"]] == [8] * len(report["sweep"]["radii"])
    assert [image["label"] for image in report["examples"]["images"]] == [0, 1, 2, 3]
    images = [attributes for tag, attributes in Outline((tmp_path / "r.html").read_text()).seen if tag == "img"]
    assert len(images) == 4 * 3
    again = robustq(*line, "--json").report
    assert "sweep" not in again
    assert "examples" not in again
