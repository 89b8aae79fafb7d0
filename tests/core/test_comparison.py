"""Models side by side: entries, baselines, gates, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustq.core.checkpoint import load, save
from robustq.core.comparison import evaluate
from robustq.core.compression import compress
from robustq.core.errors import ArchitectureError, OptionError
from robustq.core.gates import Gates
from robustq.core.recipe import Recipe, Spec


def recipe(data: str | None, **sections: Any) -> Recipe:
    attack = [{"name": "pgd", "eps": 0.1, "steps": 3}]
    return Recipe.from_dict({"data": {"name": data} if data else {}, "attack": attack, **sections})


@pytest.fixture(scope="module")
def ternary(lenet: Path) -> Path:
    """The ternary version of the LeNet, beside it."""
    path = lenet.with_name("small.rq.safetensors")
    save(compress(load(lenet), [Spec("projection", {"bits": 2})]).checkpoint, path)
    return path


def test_entries_of_two_models(lenet: Path, ternary: Path, quadrants: str) -> None:
    report = evaluate([lenet, ternary], recipe(quadrants))
    first, second = report.content["models"]
    assert (first["name"], second["name"]) == ("parent", "small")
    assert second["parent"] == first["sha256"]
    assert first["bytes"] == lenet.stat().st_size
    assert second["bytes"] == ternary.stat().st_size < first["bytes"]
    assert first["bits_per_weight"] == 32
    assert first["packed"] is None
    assert second["packed"]["layers"] == 3
    assert second["packed"]["max_error"] < 1e-5
    for entry in (first, second):
        assert entry["complete"]
        assert entry["worst_case"]["value"] <= entry["clean"]["value"]
        assert entry["clean"]["n"] == 40
    assert report.content["threat"]["pgd"]["radius"] == 0.1
    assert report.content["data"]["split"] == "test"


def test_figures_move_with_the_radius(lenet: Path, quadrants: str) -> None:
    robust = [
        evaluate([lenet], recipe(quadrants, attack=[{"name": "pgd", "eps": eps}])).content["models"][0]["worst_case"]
        for eps in (0.0, 0.5)
    ]
    assert robust[0]["value"] > robust[1]["value"]


def test_the_same_attack_twice_has_two_labels(lenet: Path, quadrants: str) -> None:
    attacks = [{"name": "fgsm", "eps": 0.1}, {"name": "fgsm", "eps": 0.2}, {"name": "pgd", "eps": 0.1, "steps": 2}]
    entry = evaluate([lenet], recipe(quadrants, attack=attacks)).content["models"][0]
    assert list(entry["attacks"]) == ["fgsm-1", "fgsm-2", "pgd"]
    assert entry["worst_case"]["value"] <= min(a["value"] for a in entry["attacks"].values())


def test_no_attack_is_clean_accuracy_only(lenet: Path, quadrants: str) -> None:
    entry = evaluate([lenet], recipe(quadrants, attack=[])).content["models"][0]
    assert entry["attacks"] == {}
    assert entry["worst_case"] is None


def test_gates(lenet: Path, ternary: Path, quadrants: str) -> None:
    met = evaluate([ternary], recipe(quadrants), gates=Gates(max_bytes=10**6, min_acc=0.0))
    assert met.exit_code == 0
    missed = evaluate([ternary], recipe(quadrants), gates=Gates(max_bytes=100, min_robust_acc=1.0))
    assert missed.exit_code == 1
    assert len(missed.content["gates_missed"]) == 2
    assert "more than --max-bytes 100" in missed.content["gates_missed"][1]
    assert missed.content["models"][0]["complete"]


def test_the_recorded_parent_beside_the_file_is_the_baseline(lenet: Path, ternary: Path, quadrants: str) -> None:
    small = ternary.stat().st_size
    assert small < lenet.stat().st_size
    report = evaluate([ternary], recipe(quadrants), gates=Gates(max_drop=1.0, max_bytes=small))
    assert report.content["baseline"] == {"small": "parent"}
    assert [entry["name"] for entry in report.content["models"]] == ["small", "parent"]
    assert report.exit_code == 0  # the parent was not asked for: no gate judges it


def test_a_parent_among_the_models_may_be_large(lenet: Path, ternary: Path, quadrants: str) -> None:
    report = evaluate([lenet, ternary], recipe(quadrants), gates=Gates(max_bytes=ternary.stat().st_size))
    assert report.exit_code == 0


def test_a_bare_parent_is_measured_with_the_normalisation_of_its_child(
    lenet: Path, quadrants: str, tmp_path: Path
) -> None:
    bare, small = tmp_path / "bare.pt", tmp_path / "small.rq.safetensors"
    torch.save(load(lenet).dense(), bare)
    made = compress(load(bare), [Spec("projection", {"bits": 8})]).checkpoint
    normal = {"mean": [0.25], "std": [0.5]}
    save(replace(made, meta={**made.meta, "normalization": normal}), small)
    report = evaluate([bare, small], recipe(quadrants))
    assert "bare: its normalisation is the one recorded in small, which was made from it" in report.warnings
    given = recipe(quadrants, model={"mean": [0.25], "std": [0.5]})
    assert report.content["models"][0]["clean"] == evaluate([bare], given).content["models"][0]["clean"]


def test_without_a_parent_the_first_model_is_the_baseline(
    lenet: Path, ternary: Path, quadrants: str, tmp_path: Path
) -> None:
    alone = shutil.copy(ternary, tmp_path / "alone.rq.safetensors")
    report = evaluate([alone, alone], recipe(quadrants), gates=Gates(max_drop=0.0))
    assert report.content["baseline"] == {"alone-2": "alone"}
    assert report.exit_code == 0
    given = evaluate([alone, lenet], recipe(quadrants), gates=Gates(max_drop=1.0))
    assert given.content["baseline"] == {"alone": "parent"}


def test_a_drop_against_nothing_is_refused(lenet: Path, ternary: Path, quadrants: str, tmp_path: Path) -> None:
    alone = shutil.copy(ternary, tmp_path / "alone.rq.safetensors")
    (tmp_path / "parent.pt").write_bytes(b"another file of the parent's name")
    with pytest.raises(OptionError, match=r"nothing to compare alone with: its float parent .* is not beside it"):
        evaluate([alone], recipe(quadrants), gates=Gates(max_drop=0.1))
    with pytest.raises(OptionError, match="records no float parent"):
        evaluate([lenet], recipe(quadrants), gates=Gates(max_drop=0.1))


def test_a_robust_gate_needs_an_attack(lenet: Path, quadrants: str) -> None:
    with pytest.raises(OptionError, match="--min-robust-acc has nothing to judge"):
        evaluate([lenet], recipe(quadrants, attack=[]), gates=Gates(min_robust_acc=0.1))


def test_an_interruption_leaves_what_was_done(lenet: Path, ternary: Path, quadrants: str) -> None:
    from robustq.core.report import Report

    report = Report("benchmark")

    def stop(event: dict[str, Any]) -> None:
        if event["task"].startswith("small"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([lenet, ternary], recipe(quadrants), report=report, on_event=stop)
    done, open_ = report.content["models"]
    assert done["complete"]
    assert not open_["complete"]


def test_the_data_set_a_model_records_is_used(lenet: Path, quadrants: str, tmp_path: Path) -> None:
    checkpoint = load(lenet)
    meta = {**checkpoint.meta, "data": {"name": quadrants, "shape": [1, 12, 12]}}
    path = tmp_path / "trained.rq.safetensors"
    save(type(checkpoint)(checkpoint.weights, {}, {}, meta, checkpoint.source), path)
    assert evaluate([path], recipe(None)).content["data"]["name"] == quadrants
    with pytest.raises(OptionError, match="no data is named"):
        evaluate([lenet], recipe(None))


def test_images_of_another_size_are_named(lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.npz"
    np.savez(path, x=np.zeros((8, 20, 20), np.uint8), y=np.arange(8) % 4)
    with pytest.raises(OptionError, match=r"parent cannot take images of .*1x20x20"):
        evaluate([lenet], recipe(str(path)))


def test_more_classes_than_outputs_are_named(lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    np.savez(path, x=np.zeros((8, 12, 12), np.uint8), y=np.arange(8))
    with pytest.raises(OptionError, match=r"output of shape \[1, 4\], but .* has 8 classes"):
        evaluate([lenet], recipe(str(path)))


def test_unknown_class_names_the_flag(tmp_path: Path, quadrants: str) -> None:
    torch.save({"fc.weight": torch.rand(4, 144)}, tmp_path / "bare.pt")
    with pytest.raises(ArchitectureError, match="--arch"):
        evaluate([tmp_path / "bare.pt"], recipe(quadrants))
