"""The training loop: what is exported, what the attack sees, resume, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.core import preparation
from robustq.core.architecture import build
from robustq.core.checkpoint import Checkpoint, dumps
from robustq.core.datasets import load as load_data
from robustq.core.datasets.augment import augment
from robustq.core.errors import OptionError, TrainingError
from robustq.core.packed import Half, Quantized, Sparse
from robustq.core.recipe import Recipe
from robustq.core.report import Proportion
from robustq.core.training import train


def recipe(quadrants: str, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "model": {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
        "data": {"name": quadrants},
        "train": {"epochs": 2, "batch_size": 32, "lr": 0.05, "validation": 40, "bn_images": 64},
        "attack": {"name": "pgd", "eps": 0.1, "steps": 3, "step": 0.05},
        "objective": {"name": "pgd-at"},
    }
    for name, values in sections.items():
        merge = isinstance(values, dict) and name in content and name != "objective"
        content[name] = {**content[name], **values} if merge else values
    return Recipe.from_dict(content)


TERNARY = [{"name": "binary-relax", "bits": 2}]


def test_learning_happens(quadrants: str) -> None:
    result = train(recipe(quadrants, train={"epochs": 8, "batch_size": 16}, objective={"name": "natural"}))
    assert result.history[-1]["clean"]["value"] >= 0.9
    assert result.history[-1]["robust"] is None
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_one_epoch_reaches_exact_ternary_weights(quadrants: str) -> None:
    result = train(recipe(quadrants, train={"epochs": 1}, compress=TERNARY))
    packed = result.checkpoint.packed
    assert {name: type(p) for name, p in packed.items()} == {
        "conv1.weight": Half,
        "conv2.weight": Quantized,
        "fc1.weight": Quantized,
        "fc2.weight": Quantized,
        "fc3.weight": Half,
    }
    assert result.history[0]["exact"]
    assert result.checkpoint.meta["methods"] == [{"name": "binary-relax", "bits": 2}]
    model = build(result.checkpoint)
    assert torch.equal(model.net.get_parameter("fc1.weight"), packed["fc1.weight"].dense())


def test_same_seed_same_bytes_other_seed_others(quadrants: str) -> None:
    def run(seed: int) -> bytes:
        return dumps(train(recipe(quadrants, run={"seed": seed}, compress=TERNARY, train={"epochs": 1})).checkpoint)

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.parametrize("stop_at", [1, 7, 13])
def test_a_killed_run_resumes_to_the_same_bytes(quadrants: str, tmp_path: Path, stop_at: int) -> None:
    described = recipe(
        quadrants, compress=TERNARY, data={"augment": "crop+flip"}, model={"arch": "resnet", "args": SMALL}
    )
    whole = train(described)
    state = tmp_path / "state.pt"

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described, state_path=state, on_event=kill)
    assert state.exists()
    events: list[dict[str, Any]] = []
    resumed = train(described, state_path=state, on_event=events.append)
    assert next(e["step"] for e in events if e["kind"] == "step") == stop_at + 1
    assert dumps(resumed.checkpoint) == dumps(whole.checkpoint)
    assert [{**e, "seconds": 0} for e in resumed.history] == [{**e, "seconds": 0} for e in whole.history]
    assert not state.exists()


SMALL = {"depth": 8, "width": 4, "channels": 1, "classes": 4}


@pytest.mark.parametrize(
    "compress",
    [
        [{"name": "dnr", "sparsity": 0.8, "rewirings": 6}, {"name": "binary-relax"}],
        [{"name": "hydra", "sparsity": 0.7, "switch": 0.5}],
        [{"name": "admm", "sparsity": 0.7, "updates": 4}, {"name": "bcgd", "bits": 4}],
        [{"name": "rsr", "switch": 0.8, "lasso": 1e-3}, {"name": "rgsm"}],
        [{"name": "atmc", "sparsity": 0.5, "bits": 2, "interval": 2}, {"name": "pni"}],
        [{"name": "magnitude", "ramp": 0.5}, {"name": "pni"}, {"name": "binary-connect", "bits": 4}],
    ],
    ids=lambda compress: "+".join(method["name"] for method in compress),
)
def test_every_compressor_resumes_to_the_same_bytes(quadrants: str, tmp_path: Path, compress: list[Any]) -> None:
    sections = {"train": {"batch_size": 16, "validation_attack_limit": 4}, "data": {"limit": 80}}
    described = recipe(quadrants, compress=compress, objective={"name": "pgd-at"}, **sections)
    whole = train(described)
    state = tmp_path / "state.pt"

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described, state_path=state, on_event=kill)
    resumed = train(described, state_path=state)
    assert dumps(resumed.checkpoint) == dumps(whole.checkpoint)
    assert [{**e, "seconds": 0} for e in resumed.history] == [{**e, "seconds": 0} for e in whole.history]


@pytest.mark.parametrize(
    "sections",
    [
        {"average": {"kind": "ema", "decay": 0.9}, "compress": TERNARY},
        {"average": {"kind": "swa", "start": 0.4}, "distill": {"weight": 0.5, "parent_sees": "same"}},
        {"compress": [{"name": "pni", "on": "weight,input,activation"}, {"name": "rvsm", "switch": 0.7}]},
        {"model": {"arch": "enresnet", "args": {**SMALL, "members": 2}}, "objective": {"name": "mat"}},
    ],
    ids=["ema", "swa+distillation", "noise", "enresnet"],
)
def test_whatever_has_a_state_resumes_to_the_same_bytes(
    quadrants: str, tmp_path: Path, sections: dict[str, Any]
) -> None:
    start = None
    if "distill" in sections:
        start = train(recipe(quadrants, train={"epochs": 1, "validation_attack_limit": 4})).checkpoint
    train_part = {"batch_size": 16, "validation_attack_limit": 4}
    described = recipe(quadrants, data={"limit": 80}, **{**sections, "train": train_part})
    whole = train(described, start=start)
    state = tmp_path / "state.pt"

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] in (3, 7):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(described, start=start, state_path=state, on_event=kill)
    resumed = train(described, start=start, state_path=state)
    assert dumps(resumed.checkpoint) == dumps(whole.checkpoint)
    assert [{**e, "seconds": 0} for e in resumed.history] == [{**e, "seconds": 0} for e in whole.history]


def test_pruning_then_quantizing_in_one_run(quadrants: str) -> None:
    compress = [{"name": "magnitude", "sparsity": 0.6}, {"name": "binary-relax", "switch": 0.5}]
    result = train(recipe(quadrants, compress=compress))
    assert result.history[-1]["exact"]
    assert [m["name"] for m in result.checkpoint.meta["methods"]] == ["magnitude", "binary-relax"]
    weights = {n: p for n, p in result.checkpoint.packed.items() if isinstance(p, Quantized)}
    assert sum(p.zeros for p in weights.values()) >= 0.6 * sum(p.codes.numel() for p in weights.values()) - 1
    assert all(p.levels == 1 for p in weights.values())
    model = build(result.checkpoint)
    assert all(torch.equal(model.net.get_parameter(n), p.dense()) for n, p in weights.items())


def test_the_order_of_methods_is_part_of_the_recipe(quadrants: str) -> None:
    methods = [{"name": "magnitude", "sparsity": 0.6}, {"name": "binary-relax", "bits": 4, "switch": 0.0}]
    first = train(recipe(quadrants, compress=methods, train={"epochs": 1})).checkpoint
    second = train(recipe(quadrants, compress=methods[::-1], train={"epochs": 1})).checkpoint
    assert isinstance(first.packed["fc1.weight"], Quantized)
    assert isinstance(second.packed["fc1.weight"], Sparse)


def test_noise_is_reported_on_and_off(quadrants: str) -> None:
    entry = train(recipe(quadrants, compress=[{"name": "pni", "start": 1.0}], train={"epochs": 1})).history[0]
    assert {"clean", "robust", "clean_noise_off", "robust_noise_off", "noise"} <= set(entry)
    assert entry["clean_noise_off"]["n"] == entry["clean"]["n"]
    assert "clean_noise_off" not in train(recipe(quadrants, train={"epochs": 1})).history[0]


def test_state_of_another_run_is_refused(quadrants: str, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"

    def kill(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(quadrants), state_path=state, on_event=kill)
    with pytest.raises(TrainingError, match=r"belongs to another run: train.lr differs.\nDelete"):
        train(recipe(quadrants, train={"lr": 0.02}), state_path=state)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"cannot be read.*\nDelete"):
        train(recipe(quadrants), state_path=state)


def test_batch_norm_statistics_belong_to_the_exported_weights(quadrants: str) -> None:
    result = train(
        recipe(quadrants, compress=TERNARY, model={"arch": "resnet", "args": SMALL}, objective={"name": "natural"})
    )
    model = build(result.checkpoint)
    data, _ = preparation.data(recipe(quadrants))
    x, _ = data.batch(torch.arange(len(data)))
    seen = {}
    block = model.net.get_submodule("layer2.0.bn1")
    block.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    model(x)
    mean = seen["x"].mean((0, 2, 3))
    spread = seen["x"].std((0, 2, 3))
    assert ((model.net.get_buffer("layer2.0.bn1.running_mean") - mean).abs() < 0.25 * spread).all()


def test_a_checkpoint_is_the_start_and_the_parent(quadrants: str) -> None:
    first = train(recipe(quadrants, train={"epochs": 1})).checkpoint
    second = train(recipe(quadrants, model={"arch": None}, train={"lr": 0.0}, compress=TERNARY), start=first).checkpoint
    assert second.meta["arch"] == first.meta["arch"]
    assert second.meta["parent"]["sha256"] == first.source.sha256
    kept = second.packed["conv1.weight"].dense()
    assert torch.equal(kept, first.dense()["conv1.weight"].half().float())


def test_free_training_repeats_batches_and_resumes_between_them(quadrants: str, tmp_path: Path) -> None:
    described = recipe(quadrants, objective={"name": "free", "batch_replays": 3}, train={"epochs": 1})
    whole = train(described)
    state = tmp_path / "state.pt"
    steps: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append(event["total"])
            if event["step"] == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described, state_path=state, on_event=kill)
    assert steps == [21] * 8  # 200 images: 7 batches, three steps on each
    assert dumps(train(described, state_path=state).checkpoint) == dumps(whole.checkpoint)


@pytest.mark.parametrize("name", ["trades", "mart", "fast", "mat", "p-sat", "awp"])
def test_objectives_train_with_batch_norm_and_ternary_weights(quadrants: str, name: str) -> None:
    small = recipe(
        quadrants,
        objective={"name": name},
        model={"arch": "resnet", "args": SMALL},
        train={"epochs": 1, "validation_attack_limit": 8},
        data={"limit": 80},
        compress=TERNARY,
    )
    result = train(small)
    assert result.history[0]["exact"]
    assert 0 <= result.history[0]["train_robust"] <= 1
    assert result.warnings == []


def test_a_collapse_is_a_warning(quadrants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = iter([0.9, 0.1])

    def falling(self: Any, exported: Checkpoint) -> dict[str, Any]:
        found = Proportion(int(100 * next(curve)), 100).to_dict()
        return {"clean": found, "robust": found}

    monkeypatch.setattr("robustq.core.training._Run._validate", falling)
    result = train(recipe(quadrants, objective={"name": "fast"}))
    assert len(result.warnings) == 1
    assert "collapsed in epoch 2" in result.warnings[0]
    assert result.checkpoint.meta["validation"]["epoch"] == 1


def test_validation_images_are_held_out(quadrants: str) -> None:
    part, held = preparation.data(recipe(quadrants))
    assert len(held) == 40
    assert len(part) == 200
    seen = {image.numpy().tobytes() for image in part.images}
    assert not any(image.numpy().tobytes() in seen for image in held.images)


def test_limit_counts_training_and_validation_together(quadrants: str) -> None:
    part, held = preparation.data(recipe(quadrants, data={"limit": 100}))
    assert (len(part), len(held)) == (80, 20)


def test_divergence_names_step_and_remedy(quadrants: str) -> None:
    with pytest.raises(TrainingError, match=r"(?s)training diverged: the loss is .* at step \d+ \(epoch 1\).*--lr"):
        train(recipe(quadrants, train={"lr": 1e18}, objective={"name": "natural"}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"arch": None}}, "needs an architecture"),
        ({"data": {"name": None}}, "training needs data"),
        ({"data": {"limit": 4}}, "leave none for validation"),
        ({"attack": {"name": "pgd", "eps": None}}, "no customary radius"),
        ({"compress": [{"name": "binary-relax", "bits": 7}]}, "bits is 7"),
        ({"compress": [{"name": "dnr"}, {"name": "binary-connect"}]}, "bits=1 after pruning would fill the zeros"),
        ({"compress": [{"name": "dnr", "sparsity": 0.999, "granularity": "channel"}]}, "Give at most sparsity=0.9"),
        ({"keep_fp": ["fist"], "compress": TERNARY}, "fist"),
        ({"compress": [{"name": "atmc"}, *TERNARY]}, "atmc and binary-relax cannot be combined"),
        ({"compress": [{"name": "magnitude"}, {"name": "atmc"}]}, "atmc and magnitude cannot be combined"),
        ({"compress": [{"name": "atmc"}, {"name": "non-expansive"}]}, "atmc and non-expansive cannot be combined"),
        ({"compress": [{"name": "atmc"}, {"name": "atmc"}]}, "atmc and atmc cannot be combined"),
        ({"compress": [{"name": "atmc"}], "average": {"kind": "ema"}}, "product of averages"),
        ({"compress": [{"name": "atmc"}], "keep_fp": ["conv1", "conv2", "fc1", "fc2", "fc3"]}, "no weight to compress"),
    ],
)
def test_refusals(quadrants: str, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        train(recipe(quadrants, **sections))


def test_selection_prefers_the_most_robust_exact_epoch(quadrants: str) -> None:
    result = train(recipe(quadrants, train={"epochs": 5}, compress=TERNARY))
    exact = [e for e in result.history if e["exact"]]
    best = max(exact, key=lambda e: (e["robust"]["value"], e["clean"]["value"], e["epoch"]))
    assert result.checkpoint.meta["validation"]["epoch"] == best["epoch"]
    assert isinstance(result.checkpoint, Checkpoint)


def test_batch_norm_is_estimated_anew_on_images_augmented_as_in_training(quadrants: str) -> None:
    def mean(augmentation: str) -> torch.Tensor:
        """Of what the first batch norm sees, with weights that do not move."""
        result = train(
            recipe(
                quadrants,
                model={"arch": "resnet", "args": {"depth": 8, "width": 4, "channels": 1, "classes": 4}},
                data={"name": quadrants, "augment": augmentation},
                train={"epochs": 1, "batch_size": 200, "lr": 1e-9, "bn_images": 200},
                objective={"name": "natural"},
                compress=TERNARY,
            )
        )
        model = build(result.checkpoint)
        data = load_data(quadrants, "train")
        x, _ = data.batch(torch.arange(len(data)))
        norm = next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        x = (augment(x, "crop", (1,), torch.arange(len(x))) - model.mean) / model.std
        with torch.no_grad():
            seen = model.net.get_submodule("conv1")(x)
        assert norm.running_mean is not None
        distance = (norm.running_mean - seen.mean((0, 2, 3))).abs().max()
        return distance / seen.std()

    assert mean("crop") < 0.3 * mean("none")
