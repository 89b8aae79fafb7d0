"""Where the float parent comes from, and what a benchmark does with it; failed checks as gates."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustq.core.checkpoint import load, save
from robustq.core.comparison import evaluate
from robustq.core.compression import compress
from robustq.core.errors import ArchitectureError, OptionError, UnsafeFileError
from robustq.core.recipe import Recipe, Spec
from robustq.core.scrutiny import Scrutiny


def recipe(data: str) -> Recipe:
    return Recipe.from_dict({"data": {"name": data}, "attack": [{"name": "quick", "eps": 0.1, "steps": 3}]})


@pytest.fixture(scope="module")
def ternary(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ternary version of the LeNet, in a folder of its own."""
    path = tmp_path_factory.mktemp("child") / "ternary.rq.safetensors"
    save(compress(load(lenet), [Spec("projection", {"bits": 2})]).checkpoint, path)
    return path


def survivors(report: object, place: int = 0) -> list[str]:
    return list(report.content["models"][place]["details"]["quick"]["survivors"])  # type: ignore[attr-defined]


def test_a_parent_is_found_among_the_models_and_beside_the_file(lenet: Path, ternary: Path, quadrants: str) -> None:
    alone = evaluate([ternary], recipe(quadrants))
    assert "replay" not in survivors(alone)
    assert any("--parent" in warning for warning in alone.warnings)
    both = evaluate([lenet, ternary], recipe(quadrants))
    assert "replay" not in survivors(both, 0)
    assert "replay" in survivors(both, 1)
    near = shutil.copy(lenet, ternary.parent / "parent.rq.safetensors")
    assert "replay" in survivors(evaluate([ternary], recipe(quadrants)))
    Path(near).write_bytes(b"another file of that name")
    assert "replay" not in survivors(evaluate([ternary], recipe(quadrants)))
    Path(near).unlink()


def test_a_parent_that_is_named(lenet: Path, ternary: Path, quadrants: str) -> None:
    report = evaluate([ternary], recipe(quadrants), scrutiny=Scrutiny(parent=lenet))
    assert "replay" in survivors(report)
    worst = report.content["models"][0]["worst_case"]["value"]
    assert worst <= evaluate([ternary], recipe(quadrants)).content["models"][0]["worst_case"]["value"]
    itself = evaluate([lenet], recipe(quadrants), scrutiny=Scrutiny(parent=lenet))
    assert "replay" not in survivors(itself)


def test_example_images_know_the_parent_too(lenet: Path, ternary: Path, quadrants: str) -> None:
    alone = Recipe.from_dict({"data": {"name": quadrants}, "attack": [{"name": "replay", "eps": 0.1, "steps": 3}]})
    report = evaluate([ternary], alone, scrutiny=Scrutiny(parent=lenet, checks="none"), examples=True)
    assert len(report.content["models"][0]["examples"]) == 4
    with pytest.raises(OptionError, match="parent is not known"):
        evaluate([ternary], alone, scrutiny=Scrutiny(checks="none"))


def test_a_parent_of_a_class_from_outside_is_built_from_the_one_the_user_names(
    lenet: Path, ternary: Path, quadrants: str, tmp_path: Path
) -> None:
    parent, factory = load(lenet), tmp_path / "own.py"
    args = parent.meta["arch"]["args"]
    factory.write_text(
        f"from robustq.core.models.lenet import LeNet\ndef net():\n    return LeNet(**{args!r}).build()\n"
    )
    outside = tmp_path / "parent.rq.safetensors"
    save(replace(parent, meta={**parent.meta, "arch": {"name": f"{factory}:net", "args": {}}}), outside)
    with pytest.raises(UnsafeFileError, match="code from outside"):
        evaluate([ternary], recipe(quadrants), scrutiny=Scrutiny(parent=outside))
    named = recipe(quadrants).replace("model", arch=f"{factory}:net")
    assert "replay" in survivors(evaluate([ternary], named, scrutiny=Scrutiny(parent=outside)))


def test_a_bare_parent_of_unknown_class_asks_for_it(lenet: Path, quadrants: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.rand(4, 144)}, tmp_path / "bare.pt")
    with pytest.raises(ArchitectureError, match="--parent-arch"):
        evaluate([lenet], recipe(quadrants), scrutiny=Scrutiny(parent=tmp_path / "bare.pt"))


def test_failed_checks_are_missed_gates_with_strict(lenet: Path, quadrants: str) -> None:
    weak = Recipe.from_dict(
        {"data": {"name": quadrants}, "attack": [{"name": "pgd", "eps": 0.5, "steps": 10, "step": 1e-5}]}
    )
    lenient = evaluate([lenet], weak)
    assert lenient.exit_code == 0
    failed = [check["id"] for check in lenient.content["models"][0]["checks"] if check["status"] == "fail"]
    assert "RQ011" in failed
    strict = evaluate([lenet], weak, scrutiny=Scrutiny(strict=True))
    assert strict.exit_code == 1
    assert any("RQ011 one-step-beats-iterative failed" in missed for missed in strict.content["gates_missed"])
    silent = evaluate([lenet], weak, scrutiny=Scrutiny(checks="none"))
    assert silent.content["models"][0]["checks"] == []


def test_options_that_say_nothing_are_refused() -> None:
    with pytest.raises(OptionError, match="--checks is 'some'"):
        Scrutiny(checks="some")
    with pytest.raises(OptionError, match="nothing to judge"):
        Scrutiny(checks="none", strict=True)
    with pytest.raises(OptionError, match="--parent FILE"):
        Scrutiny(parent_arch="lenet")
