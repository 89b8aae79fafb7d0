"""The commands that make and measure models, on small files, end to end."""

import json
import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robustq.core.checkpoint import load
from robustq.core.packed import Factored

Robustq = Callable[..., Any]


def test_compress_writes_what_it_reports(robustq: Robustq, plain: Path, tmp_path: Path) -> None:
    found = robustq("compress", plain, "--bits", "2", "-o", "small.safetensors", "--json")
    report = found.report
    assert found.code == 0
    assert report["output"] == {"path": "small.safetensors", "bytes": (tmp_path / "small.safetensors").stat().st_size}
    assert report["input"]["bytes"] == plain.stat().st_size
    assert {layer["name"]: layer["scheme"] for layer in report["layers"]} == {
        "conv1.weight": "half",
        "conv2.weight": "quantized",
        "fc1.weight": "quantized",
        "fc2.weight": "quantized",
        "fc3.weight": "half",
    }
    assert any("binary-relax" in warning for warning in report["warnings"])  # how to get the accuracy back
    weights = load(tmp_path / "small.safetensors").dense()
    for layer in report["layers"]:
        before = load(plain).weights[layer["name"]].double()
        error = float((before - weights[layer["name"]].double()).norm() / before.norm())
        assert error == pytest.approx(layer["relative_error"], rel=1e-6, abs=1e-9)


def test_compress_shrinks_what_was_pruned(robustq: Robustq, plain: Path, quadrants: str) -> None:
    prune = ("--method", "magnitude:granularity=channel,scope=layer", "--sparsity", "0.5", "--keep-fp", "none")
    found = robustq("compress", plain, *prune, "--shrink", "--data", quadrants, "-v")
    assert found.code == 0
    assert re.search(r"fc2\.weight +84x120 +42x60", found.err)
    assert "channels cut from 5 layers" in found.err
    found = robustq("compress", plain, "--method", "shrink", "--data", quadrants, "-o", "no")
    assert found.code == 3
    assert "in no layer are all weights of a channel zero" in found.err


def test_only_the_first_of_several_processes_writes(
    robustq: Robustq, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustq.core.execution.crew", lambda run: nullcontext(SimpleNamespace(rank=1, size=2)))
    found = robustq("compress", plain, "--bits", "4", "-o", "small.safetensors", "--json")
    assert (found.code, found.out, found.err) == (0, "", "")
    assert not (tmp_path / "small.safetensors").exists()
    found = robustq("compress", plain, "--method", "binary-relax", "-o", "small.safetensors")
    assert found.code == 2
    assert "training needs data" in found.err


def test_compress_names_its_output_after_the_model(robustq: Robustq, plain: Path, tmp_path: Path) -> None:
    found = robustq("compress", plain, "--bits", "4", "--keep-fp", "none")
    assert (tmp_path / "model.rq.safetensors").is_file()
    assert found.out == ""
    assert "kept as fp16: none" in found.err
    assert f"{plain.stat().st_size:,} bytes -> model.rq.safetensors" in found.err


def test_compress_is_deterministic_and_sparsity_comes_first(robustq: Robustq, plain: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert robustq("compress", plain, "--sparsity", "0.8", "--bits", "4", "-o", name, "-q").err == ""
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    methods = load(tmp_path / "one").meta["methods"]
    assert [method["name"] for method in methods] == ["magnitude", "projection"]
    weight = load(tmp_path / "one").dense()["fc2.weight"]
    assert float((weight == 0).float().mean()) >= 0.8


def test_compress_with_data_shows_accuracy(robustq: Robustq, plain: Path, quadrants: str) -> None:
    found = robustq("compress", plain, "--bits", "8", "--data", quadrants, "-o", "small.safetensors", "--json")
    accuracy = found.report["accuracy"]
    assert accuracy["before"]["n"] == accuracy["after"]["n"] == 40
    assert "accuracy on" in found.err


def test_circulant_blocks_report_their_energy(robustq: Robustq, plain: Path) -> None:
    layers = robustq("compress", plain, "--block-size", "4", "-o", "c.safetensors", "--json").report["layers"]
    energies = [layer["energy"] for layer in layers if layer["scheme"] == "circulant"]
    assert energies
    assert all(0 < energy < 1 for energy in energies)


def test_training_commands_agree(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    """`compress --method X` is `train --init MODEL --compress X`."""
    shared = ("--data", quadrants, "--epochs", "1", "--set", "train.validation=40", "--json")
    one = robustq("compress", plain, "--method", "binary-relax", "--bits", "2", "-o", "one", *shared).report
    two = robustq("train", "--init", plain, "--compress", "binary-relax:bits=2", "-o", "two", *shared).report
    assert one["history"][0]["loss"] == two["history"][0]["loss"]
    assert one["history"][0]["exact"] is True
    first, second = load(tmp_path / "one"), load(tmp_path / "two")
    assert all(torch.equal(value, second.dense()[name]) for name, value in first.dense().items())
    assert not list(tmp_path.glob("*.state"))


def test_factors_go_all_the_way(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    shared = ("--method", "atmc", "--sparsity", "0.5", "--bits", "3", "--data", quadrants, "--epochs", "1")
    made = robustq("compress", plain, *shared, "--set", "train.validation=40", "--shrink", "-o", "f", "--json").report
    layers = [layer for layer in made["layers"] if layer["scheme"] == "factored"]
    assert {layer["name"] for layer in layers} == {"conv2.weight", "fc1.weight", "fc2.weight"}
    assert max(layer["bits"] for layer in layers) == 3
    assert made["history"][-1]["exact"] is True
    assert any("was not shrunk" in warning for warning in made["warnings"])
    stored = load(tmp_path / "f").packed.values()
    parts = [m for p in stored if isinstance(p, Factored) for m in (p.weight, p.square, p.rest)]
    weights = sum(math.prod(layer["shape"]) for layer in layers)
    assert sum(int((m != 0).sum()) for m in parts) == weights // 2
    assert all(len(m[m != 0].unique()) <= 8 for m in parts)
    rows = {row["name"]: row for row in robustq("inspect", "f", "--json").report["tensors"]}
    assert rows["fc1.weight"]["scheme"] == "factored"
    assert robustq("bench", "f", "--data", quadrants, "--attack", "none", "--json").code == 0
    again = robustq("compress", "f", "--bits", "2", "-o", "g")
    assert again.code == 2
    assert "compressed already (atmc, shrink)" in again.err


def test_train_from_scratch_then_bench(robustq: Robustq, quadrants: str) -> None:
    found = robustq(
        "train", "--arch", "lenet", "--arch-arg", "size=12", "--arch-arg", "classes=4", "--data", quadrants,
        "--epochs", "6", "--batch-size", "16", "--lr", "0.05", "-o", "trained.safetensors", "--json",
    )  # fmt: skip
    report = found.report
    assert report["validation"]["clean"]["value"] > 0.9
    assert "chosen" in found.err
    assert len(report["history"]) == 6
    again = robustq("bench", "trained.safetensors", "--data", quadrants, "--attack", "none", "--json").report
    (model,) = again["models"]
    assert model["clean"]["value"] > 0.9
    assert model["worst_case"] is None
    assert model["attacks"] == {}


def test_benchmark_of_two_models(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    robustq("compress", plain, "--bits", "2", "-o", "small.safetensors")
    line = ("bench", plain, "small.safetensors", "--data", quadrants, "--attack", "pgd,fgsm", "--eps", "8/255")
    found = robustq(*line, "--steps", "2", "--limit", "20", "--json", "-o", "report.json")
    report = found.report
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert [model["name"] for model in report["models"]] == ["model", "small"]
    for model in report["models"]:
        assert model["clean"]["n"] == 20
        assert set(model["attacks"]) == {"pgd", "fgsm"}
        assert model["worst_case"]["value"] <= min(found["value"] for found in model["attacks"].values())
        assert model["worst_case"]["value"] <= model["clean"]["value"]
    assert report["models"][1]["bytes"] == (tmp_path / "small.safetensors").stat().st_size
    assert report["models"][1]["parent"] == report["models"][0]["sha256"]
    assert report["models"][1]["packed"]["max_error"] < 1e-5
    assert report["threat"]["pgd"]["radius"] == pytest.approx(8 / 255)
    assert "L-inf radius 8/255, 2 steps, 1 restart" in found.err
    assert "worst case" in found.err


def test_seed_changes_the_draws(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    def images(seed: int) -> torch.Tensor:
        name = f"{seed}.safetensors"
        line = ("attack", plain, "--data", quadrants, "--eps", "0.1", "--steps", "1", "--limit", "20", "-o", name)
        assert robustq(*line, "--seed", seed, "--force").code == 0
        return load_file(tmp_path / name)["adversarial"]

    assert torch.equal(images(1), images(1))
    fooled = load_file(tmp_path / "1.safetensors")["clean_prediction"] == load_file(tmp_path / "1.safetensors")["y"]
    assert bool(fooled.any()) != torch.equal(images(1), images(2))


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (("--min-acc", "1"), "below --min-acc 1"),
        (("--min-robust-acc", "1"), "below --min-robust-acc 1"),
        (("--max-bytes", "100"), "more than --max-bytes 100"),
    ],
)
def test_a_missed_gate_is_status_1_and_reported(
    robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path, gate: tuple[str, ...], words: str
) -> None:
    line = ("bench", plain, "--data", quadrants, "--attack", "fgsm", "--eps", "0.1", "--json", "-o", "r.json")
    found = robustq(*line, *gate)
    assert found.code == 1
    assert found.report["status"] == "gate missed"
    assert words in found.report["gates_missed"][0]
    assert f"gate missed: {found.report['gates_missed'][0]}" in found.err
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 1


def test_gates_that_are_met(robustq: Robustq, plain: Path, quadrants: str) -> None:
    robustq("compress", plain, "--bits", "8", "-o", "small.safetensors")
    line = ("bench", "small.safetensors", plain, "--data", quadrants, "--attack", "fgsm", "--eps", "0.1", "--json")
    report = robustq(*line, "--min-acc", "0", "--max-bytes", "1e6", "--max-drop", "1").report
    assert report["status"] == "ok"
    assert report["baseline"] == {"small": "model"}  # the recorded parent, though it is not the first
    assert report["recipe"]["run"]["seed"] == 0


def test_attack_writes_verified_examples(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    line = (
        "attack",
        plain,
        "--data",
        quadrants,
        "--eps",
        "0.2",
        "--steps",
        "3",
        "--limit",
        "30",
        "-o",
        "adv",
        "--json",
    )
    report = robustq(*line).report
    made = load_file(tmp_path / "adv")
    moved = (made["adversarial"] - made["x"]).abs().flatten(1).amax(1)
    assert float(moved.max()) <= 0.2 + 1e-6
    assert float(made["adversarial"].min()) >= 0
    assert float(made["adversarial"].max()) <= 1
    assert int(made["fooled"].sum()) == report["fooled"]
    assert report["robust"]["value"] == pytest.approx(
        report["clean"]["value"] - report["fooled"] / report["n"], abs=1e-5
    )


def test_export_verifies_each_file(robustq: Robustq, plain: Path, tmp_path: Path) -> None:
    robustq("compress", plain, "--bits", "2", "-o", "small.safetensors")
    found = robustq("export", "small.safetensors", "--to", "safetensors,state-dict", "-o", "out", "--json")
    assert [entry["format"] for entry in found.report["files"]] == ["safetensors", "state-dict"]
    expected = load(tmp_path / "small.safetensors").dense()
    for entry in found.report["files"]:
        assert entry["verified"]
        assert entry["bytes"] == Path(tmp_path / entry["path"]).stat().st_size
        dense = load(tmp_path / entry["path"]).dense()
        assert all(torch.equal(value, dense[name]) for name, value in expected.items())


def test_a_recipe_file_and_what_overrides_it(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        f"[data]\nname = '{quadrants}'\nlimit = 30\n[run]\nseed = 5\n[attack]\nname = 'fgsm'\neps = 0.1\n"
    )
    recipe = robustq("bench", plain, "--recipe", "r.toml", "--set", "data.limit=20", "--seed", 7, "--json").report[
        "recipe"
    ]
    assert recipe["data"]["limit"] == 20
    assert recipe["run"]["seed"] == 7
    assert [attack["name"] for attack in recipe["attack"]] == ["fgsm"]


def test_normalisation_is_recorded_and_held_to(robustq: Robustq, plain: Path, quadrants: str) -> None:
    norm = ("--mean", "0.5", "--std", "0.25")
    robustq("compress", plain, "--bits", "8", *norm, "-o", "small.safetensors")
    line = ("bench", "small.safetensors", "--data", quadrants, "--attack", "none")
    assert robustq(*line).code == 0
    assert robustq(*line, *norm).code == 0
    other = robustq(*line, "--mean", "0.4", "--std", "0.25")
    assert other.code == 2
    assert "0.4" in other.err
