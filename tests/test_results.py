"""The recorded results: what docs/results.md says is what the JSON files hold, and every row can be run again."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustq.core import Recipe, registry

ROOT = Path(__file__).parents[1]
README, RECIPES = ROOT / "README.md", ROOT / "examples" / "results"


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


driver, pages = module(RECIPES / "run.py"), module(ROOT / "docs" / "results.py")
TABLE: dict[str, Any] = driver.table()
ROWS: dict[str, Any] = {row["name"]: row for row in TABLE["row"]}
RECORDS: dict[str, Any] = pages.recorded()


def recipe_of(row: dict[str, Any]) -> Path:
    return RECIPES / f"{row.get('recipe', row['name'])}.toml"


def test_the_page_is_fresh() -> None:
    assert pages.page(TABLE, RECORDS) == pages.PAGE.read_text(encoding="utf-8"), "run python docs/generate.py"


def test_names_are_unique_and_known() -> None:
    assert len(ROWS) == len(TABLE["row"])
    assert set(RECORDS) <= set(ROWS)
    for target in TABLE["target"]:
        assert {target["row"], target.get("against", target["row"])} <= set(ROWS), target
        assert target["measure"] in pages.MEASURES, target
        assert ("at_least" in target) != ("at_most" in target), target


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.get("train", True)], ids=lambda row: row["name"])
def test_recipes_name_methods_and_options_that_exist(row: dict[str, Any]) -> None:
    recipe = Recipe.read(recipe_of(row)).with_values(row.get("set", []))
    for spec in recipe.compress:
        registry.create(spec.name, spec.options, *registry.COMPRESSORS)
    for spec in recipe.attack:
        registry.create(spec.name, spec.options, "attack")
    if recipe.objective is not None:
        registry.create(recipe.objective.name, recipe.objective.options, "objective")
    assert recipe.model.arch is not None or "start" in row


def test_every_recipe_belongs_to_a_row() -> None:
    used = {recipe_of(row).name for row in ROWS.values()}
    assert {path.name for path in RECIPES.glob("*.toml")} - {"rows.toml"} <= used


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_records_are_of_the_recipes_as_they_stand(name: str) -> None:
    record, row = RECORDS[name], ROWS[name]
    assert [run["seed"] for run in record["runs"]] == row["seeds"]
    for run in record["runs"]:
        if row.get("train", True):
            assert run["recipe_sha256"] == hashlib.sha256(recipe_of(row).read_bytes()).hexdigest(), "run the row again"
            assert run["bytes"] == run["measured"]["default"]["models"][0]["bytes"]
    assert not re.search(r'"(/|[^"]* /)(tmp|home|root|work|Users)/', json.dumps(record)), "a folder of some machine"


def test_the_readme_quotes_the_records() -> None:
    found = re.findall(
        r"^\| .*\(`([\w-]+)`\) \| (\S+)% \| (\S+)% \| (\S+) \|$", README.read_text(encoding="utf-8"), re.M
    )
    assert found
    for name, clean, robust, size in found:
        record = RECORDS[name]
        assert float(clean) == round(pages.of(record, "clean"), 1), name
        assert float(robust) == round(pages.of(record, "robust"), 1), name
        assert size == f"{round(pages.of(record, 'bytes')):,}", name


def test_targets_are_judged_by_means_differences_and_ratios() -> None:
    def record(*clean: float, size: int) -> dict[str, Any]:
        models = [[{"clean": {"value": c}, "worst_case": None, "sparsity": 0.25}] for c in clean]
        return {"runs": [{"bytes": size, "measured": {"default": {"models": m}}} for m in models]}

    records = {"a": record(0.9, 0.8, size=10), "b": record(0.8, size=45)}
    assert pages.value({"row": "a", "measure": "clean"}, records) == pytest.approx(85)
    assert pages.value({"row": "a", "measure": "clean", "against": "b"}, records) == pytest.approx(5)
    assert pages.value({"row": "a", "measure": "smaller", "against": "b"}, records) == pytest.approx(4.5)
    assert pages.value({"row": "a", "measure": "zeros"}, records) == pytest.approx(25)
    assert pages.value({"row": "a", "measure": "clean", "against": "c"}, records) is None


def test_a_row_is_run_recorded_and_not_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.toml").write_text(
        '[model]\narch = "lenet"\n[data]\nname = "fashion-mini"\nlimit = 100\n[train]\nepochs = 1\nbn_images = 0\n'
    )
    (tmp_path / "rows.toml").write_text(
        'target = []\n[[group]]\nname = "g"\n[[row]]\nname = "small"\ngroup = "g"\ntier = "cpu"\nseeds = [3]\n'
        'test = { data = "fashion-mini", limit = 20 }\n'
    )
    monkeypatch.setattr(driver, "HERE", tmp_path)
    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver, "RECORDS", tmp_path / "records")
    assert driver.main(["small", "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "records" / "small.json").read_text())
    (run,) = record["runs"]
    assert run["seed"] == 3
    assert run["measured"]["default"]["models"][0]["clean"]["n"] == 20
    assert run["command"].startswith("robustq train --recipe small.toml --seed 3 ")
    assert str(tmp_path) not in json.dumps(record)
    monkeypatch.setattr(driver.subprocess, "run", lambda *a, **k: pytest.fail("it was run twice"))
    assert driver.main(["small", "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "records" / "small.json").read_text()) == record


def test_an_unknown_row_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        driver.main(["nothing"])
    assert "nothing" in capsys.readouterr().err


def test_the_device_reaches_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed: list[list[str]] = []

    def run(words: list[str], **_named: Any) -> Any:
        typed.append(words)
        if "bench" in words:
            raise driver.subprocess.CalledProcessError(7, words)
        (tmp_path / f"{Path(words[words.index('-o') + 1]).name}").touch()
        report = {"bytes": 0, "history": [], "validation": None, "environment": {"gpu": "a GPU"}, "warnings": []}
        return driver.subprocess.CompletedProcess(words, 0, stdout=json.dumps(report))

    monkeypatch.setattr(driver.subprocess, "run", run)
    assert driver.main(["gpu-resnet20-ternary", "--device", "cuda", "--out", str(tmp_path)]) == 7
    assert [words[3] for words in typed] == ["train", "train", "bench"]  # the parent, the row, its measurement
    assert all(words[words.index("--device") + 1] == "cuda" for words in typed)
