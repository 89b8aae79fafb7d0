"""Noise in networks: silenced in one place, stored in files, measured both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.core.architecture import build, create
from robustq.core.checkpoint import Checkpoint, load, save
from robustq.core.comparison import evaluate
from robustq.core.errors import ArchitectureError
from robustq.core.exporting import export
from robustq.core.inference import is_randomized
from robustq.core.noise import noise_off, noises
from robustq.core.recipe import Recipe
from robustq.core.training import train

IMAGES = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def trained(quadrants: str, **compress: Any) -> Checkpoint:
    recipe = Recipe.from_dict(
        {
            "model": {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
            "data": {"name": quadrants, "limit": 60},
            "train": {"epochs": 1, "batch_size": 16, "lr": 0.01},
            "compress": [compress, {"name": "binary-relax", "bits": 4}],
        }
    )
    return train(recipe).checkpoint


@pytest.mark.parametrize(
    "compress",
    [{"name": "pni", "on": "weight,input,activation", "level": "element"}, {"name": "rsr", "threshold": 0.01}],
    ids=["pni", "rsr"],
)
def test_a_file_gives_its_noise_back(quadrants: str, tmp_path: Path, compress: dict[str, Any]) -> None:
    checkpoint = trained(quadrants, **compress)
    save(checkpoint, tmp_path / "noisy.rq.safetensors")
    model = build(load(tmp_path / "noisy.rq.safetensors"))
    strengths = [p for layer in noises(model) for p in layer.parameters()]
    assert len(strengths) == (3 if compress["name"] == "rsr" else 7)
    assert all(float((s.detach() - 0.25).abs().max()) > 0 for s in strengths)  # they were trained
    assert is_randomized(model, IMAGES)
    with noise_off(model):
        assert not is_randomized(model, IMAGES)
        quiet = model(IMAGES)
    assert checkpoint.packed["fc1.weight"].scheme == "quantized"
    # Without noise it is the network of the dense weights alone.
    plain = create("lenet", {"size": 12, "classes": 4, "width": 3})
    plain.load_state_dict({n: w for n, w in checkpoint.dense().items() if not n.endswith(".strength")})
    torch.testing.assert_close(quiet, plain.eval()((IMAGES - model.mean) / model.std))


def test_a_record_that_does_not_fit_the_network_is_named(quadrants: str) -> None:
    checkpoint = trained(quadrants, name="pni")
    checkpoint.meta["inserted"][0]["at"][0] = "conv9.weight"
    with pytest.raises(ArchitectureError, match=r"weight-noise at 'conv9.weight', which does not fit"):
        build(checkpoint)
    del checkpoint.meta["inserted"]
    with pytest.raises(ArchitectureError, match=r"weight_noise.strength is not in the class"):
        build(checkpoint)


def test_onnx_has_the_network_without_noise_where_that_is_asked_for(quadrants: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    checkpoint = trained(quadrants, name="pni", on="weight,input,activation")
    model = build(checkpoint)
    with pytest.raises(ArchitectureError, match="draws noise"):
        export(checkpoint, ["onnx"], tmp_path / "a.onnx", classifier=model)
    quiet = {"onnx": {"noise_off": "true"}}
    (entry,) = export(checkpoint, ["onnx"], tmp_path / "a.onnx", classifier=model, options=quiet)
    assert entry["verified"]
    assert is_randomized(model, IMAGES)  # the model itself is left as it was


def test_an_enresnet_is_silenced_in_the_same_place() -> None:
    net = create("enresnet", {"depth": 8, "members": 2, "width": 4, "channels": 1}).eval()
    assert is_randomized(net, IMAGES)
    with noise_off(net):
        assert not is_randomized(net, IMAGES)
    assert is_randomized(net, IMAGES)
    with noise_off(lambda x: x):
        pass


def test_the_benchmark_has_a_row_with_noise_and_one_without(quadrants: str, tmp_path: Path) -> None:
    path = tmp_path / "noisy.rq.safetensors"
    save(trained(quadrants, name="pni", start=1.0), path)
    recipe = Recipe.from_dict({"data": {"name": quadrants, "limit": 20}, "attack": {"name": "fgsm", "eps": 0.1}})
    rows = evaluate([path], recipe).content["models"]
    assert [row["name"] for row in rows] == ["noisy", "noisy (noise off)"]
    assert [row["randomized"] for row in rows] == [True, False]
    assert rows[0]["sha256"] == rows[1]["sha256"]
    assert all(set(row["attacks"]) == {"fgsm"} for row in rows)
