"""Compressing and training from a recipe to the bytes of a file."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.core.architecture import build
from robustq.core.checkpoint import load
from robustq.core.datasets.loading import load as load_data
from robustq.core.errors import OptionError
from robustq.core.evaluation import accuracy
from robustq.core.recipe import Recipe
from robustq.core.workflow import compress, train

FOUR_BITS = [{"name": "projection", "bits": 4}]


def test_compression_without_data_needs_no_class(tmp_path: Path) -> None:
    torch.save({f"{i}.weight": torch.randn(8, 8) for i in range(4)}, tmp_path / "bare.pt")
    made = compress(load(tmp_path / "bare.pt"), Recipe.from_dict({"compress": FOUR_BITS}))
    again = load(io.BytesIO(made.data))
    assert made.content["bytes"] == len(made.data)
    assert made.content["input"]["name"].endswith("bare.pt")
    assert [layer["scheme"] for layer in made.content["layers"]] == ["half", "quantized", "quantized", "half"]
    for name, tensor in made.checkpoint.dense().items():
        assert torch.equal(again.dense()[name], tensor)


def test_data_shows_accuracy_before_and_after(lenet: Path, quadrants: str) -> None:
    recipe = Recipe.from_dict({"compress": FOUR_BITS, "data": {"name": quadrants}})
    accuracy = compress(load(lenet), recipe).content["accuracy"]
    assert accuracy["before"]["n"] == accuracy["after"]["n"] == 40
    assert accuracy["data"]["split"] == "test"


def test_flags_of_the_model_are_recorded(tmp_path: Path, lenet: Path) -> None:
    dense = load(lenet).dense()
    torch.save(dense, tmp_path / "bare.pt")
    given = {"arch": "lenet", "args": {"size": "12", "classes": "4", "width": "3"}, "mean": [0.25], "std": [0.5]}
    made = compress(load(tmp_path / "bare.pt"), Recipe.from_dict({"compress": FOUR_BITS, "model": given}))
    assert made.checkpoint.meta["normalization"] == {"mean": [0.25], "std": [0.5]}
    assert made.checkpoint.meta["arch"]["name"] == "lenet"


def training(quadrants: str, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "data": {"name": quadrants},
        "train": {"epochs": 1, "lr": 0.01, "batch_size": 40},
        **sections,
    }
    return Recipe.from_dict(content)


def test_a_method_that_trains_is_trained(lenet: Path, quadrants: str) -> None:
    made = compress(load(lenet), training(quadrants, compress=[{"name": "binary-relax"}]))
    assert len(made.content["history"]) == 1
    assert made.content["validation"]["epoch"] == 1
    bits = {layer["name"].removesuffix(".weight"): layer["bits"] for layer in made.content["layers"]}
    assert bits == {"conv1": 16, "conv2": 2, "fc1": 2, "fc2": 2, "fc3": 16}
    assert made.checkpoint.meta["parent"]["sha256"] == load(lenet).source.sha256


def test_pruning_then_quantizing_in_one_run(lenet: Path, quadrants: str) -> None:
    both = [{"name": "magnitude", "sparsity": 0.8}, {"name": "binary-relax", "bits": 4}]
    made = compress(load(lenet), training(quadrants, compress=both))
    assert made.content["sparsity"] >= 0.8
    packed = [t for t in made.checkpoint.packed.values() if t.scheme == "quantized"]
    assert len(packed) == 3
    assert all(len(t.dense().unique()) > 3 for t in packed)


def test_training_a_data_free_method_is_refused_by_name(lenet: Path, quadrants: str) -> None:
    with pytest.raises(OptionError, match=r"Projection works without data.*\n.*binary-relax"):
        compress(load(lenet), training(quadrants, compress=FOUR_BITS), train=True)


def test_a_method_that_trains_needs_data(lenet: Path) -> None:
    with pytest.raises(OptionError, match="training needs data"):
        compress(load(lenet), Recipe.from_dict({"compress": [{"name": "binary-relax"}]}))


def test_training_from_scratch_has_no_parent(quadrants: str) -> None:
    model = {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}}
    made = train(training(quadrants, model=model))
    assert made.content["input"] is None
    assert "parent" not in made.checkpoint.meta
    assert made.checkpoint.meta["data"] == {"name": quadrants, "shape": [1, 12, 12]}


CHANNELS = {"name": "magnitude", "granularity": "channel", "scope": "layer"}


def shapes(made: Any) -> dict[str, list[int]]:
    return {name: list(w.shape) for name, w in made.checkpoint.dense().items() if w.ndim > 1}


def test_pruning_and_shrinking_in_one_go(lenet: Path, quadrants: str) -> None:
    start = load(lenet)
    parts = {"data": {"name": quadrants}, "keep_fp": ["none"]}
    pruned = compress(start, Recipe.from_dict({"compress": [CHANNELS], **parts}))
    small = compress(start, Recipe.from_dict({"compress": [CHANNELS, {"name": "shrink"}], **parts}))
    later = compress(pruned.checkpoint, Recipe.from_dict({"compress": ["shrink"], **parts}))
    assert small.data == later.data
    assert small.checkpoint.meta["methods"][-1] == {"name": "shrink"}
    assert small.checkpoint.meta["parent"]["sha256"] == start.source.sha256
    assert small.content["accuracy"]["after"] == pruned.content["accuracy"]["after"]
    assert len(small.data) < len(pruned.data)
    assert shapes(small)["fc2.weight"] == [42, 60]


def test_a_shrunk_network_trains_on_and_stays_small(lenet: Path, quadrants: str) -> None:
    recipe = training(quadrants, compress=[CHANNELS, {"name": "shrink"}])
    made = compress(load(lenet), recipe, train=True)
    assert made.content["shrunk"]["weights"]["after"] < made.content["shrunk"]["weights"]["before"]
    assert len(made.content["history"]) == 1
    on = train(training(quadrants, compress=[{"name": "binary-relax", "bits": 4}]), start=load(io.BytesIO(made.data)))
    assert shapes(on) == shapes(made)
    again = load(io.BytesIO(on.data))
    assert again.meta["shrunk"] == made.checkpoint.meta["shrunk"]
    assert accuracy(build(again), load_data(quadrants, "test")).n == 40


def test_what_was_trained_is_not_lost_where_nothing_can_be_removed(lenet: Path, quadrants: str) -> None:
    made = compress(
        load(lenet), training(quadrants, compress=[{"name": "binary-relax", "bits": 4}, {"name": "shrink"}])
    )
    assert any("was not shrunk: no channel can be removed" in warning for warning in made.warnings)
    assert "shrunk" not in made.content
