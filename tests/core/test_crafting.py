"""Adversarial examples as files."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors

from robustq.core.checkpoint import load
from robustq.core.crafting import craft_examples
from robustq.core.errors import OptionError, RobustqError
from robustq.core.recipe import Recipe


def recipe(data: str, eps: float = 0.4) -> Recipe:
    return Recipe.from_dict({"data": {"name": data}, "attack": [{"name": "pgd", "eps": eps, "steps": 5}]})


def test_the_file_holds_what_was_verified(lenet: Path, quadrants: str) -> None:
    crafted = craft_examples(load(lenet), recipe(quadrants))
    tensors = load_tensors(crafted.to_bytes())
    assert set(tensors) == {"x", "adversarial", "y", "clean_prediction", "prediction", "fooled", "norm"}
    assert all(len(tensor) == 40 for tensor in tensors.values())
    assert float((tensors["adversarial"] - tensors["x"]).abs().max()) <= 0.4 + 1e-6
    fooled = tensors["fooled"]
    assert int(fooled.sum()) == crafted.content["fooled"] > 0
    assert (tensors["prediction"][fooled] != tensors["y"][fooled]).all()
    assert (tensors["clean_prediction"][fooled] == tensors["y"][fooled]).all()
    assert crafted.content["robust"]["value"] == pytest.approx(
        crafted.content["clean"]["value"] - int(fooled.sum()) / 40
    )


def test_the_picture_is_a_png(lenet: Path, quadrants: str) -> None:
    pytest.importorskip("matplotlib")
    crafted = craft_examples(load(lenet), recipe(quadrants))
    assert crafted.grid()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_to_draw(lenet: Path, quadrants: str) -> None:
    pytest.importorskip("matplotlib")
    crafted = craft_examples(load(lenet), recipe(quadrants, eps=0.0))
    assert torch.equal(crafted.result.adversarial, crafted.clean)
    with pytest.raises(RobustqError, match="No image was fooled"):
        crafted.grid()


def test_one_attack_and_named_data(lenet: Path, quadrants: str) -> None:
    two = Recipe.from_dict({"data": {"name": quadrants}, "attack": [{"name": "pgd", "eps": 0.1}] * 2})
    with pytest.raises(OptionError, match="2 attacks are named"):
        craft_examples(load(lenet), two)
    with pytest.raises(OptionError, match="no data is named"):
        craft_examples(load(lenet), Recipe.from_dict({"attack": [{"name": "pgd", "eps": 0.1}]}))


def test_the_data_set_a_model_records_is_attacked(lenet: Path, quadrants: str) -> None:
    source = load(lenet)
    trained = replace(source, meta={**source.meta, "data": {"name": quadrants}})
    crafted = craft_examples(trained, Recipe.from_dict({"attack": [{"name": "fgsm", "eps": 0.1}]}))
    assert crafted.recipe.data.name == crafted.content["data"]["name"] == quadrants
