"""Accuracy on data sets, and the benchmark's entries."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core import evaluation
from robustq.core.attacks.fgsm import Fgsm
from robustq.core.attacks.pgd import Pgd
from robustq.core.benchmark import Candidate, benchmark
from robustq.core.datasets.dataset import Dataset
from robustq.core.inference import fitting_batch


class Brightness(nn.Module):
    """Class 1 where the mean is above a half, or below it for sign -1."""

    def __init__(self, sign: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.sign, self.noise = sign, noise

    def forward(self, x: Tensor) -> Tensor:
        mean = self.sign * (x.flatten(1).mean(1) - 0.5)
        mean = mean + self.noise * torch.randn_like(mean)
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def data() -> Dataset:
    """Ten grey images: brightness 0.05, 0.15, ... 0.95; bright ones are class 1, and one label is wrong."""
    grey = torch.arange(10).mul(0.1).add(0.05).view(10, 1, 1, 1).expand(10, 1, 4, 4)
    labels = (torch.arange(10) >= 5).long()
    labels[0] = 1
    return Dataset("grey", "test", grey.contiguous(), labels, 2, divisor=1.0)


def test_accuracy_by_hand(data: Dataset) -> None:
    assert evaluation.accuracy(Brightness(), data).to_dict()["value"] == 0.9
    assert evaluation.predictions(Brightness(), data).tolist() == [0] * 5 + [1] * 5
    # A shift of 0.1 turns 0.45 and 0.55; the wrong label counts against it.
    assert evaluation.robust_accuracy(Brightness(), data, Pgd(eps=0.1)).hits == 7
    assert evaluation.robust_accuracy(Brightness(), data, Pgd(eps=0.0)).hits == 9
    assert evaluation.robust_accuracy(Brightness(), data, Pgd(eps=1.0)).hits == 0


def test_chunks_change_nothing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    attack = Pgd(eps=0.1, steps=3)
    whole = evaluation.survey(attack, model, data)
    monkeypatch.setattr(evaluation, "parts", lambda n, attack=None: list(torch.arange(n).split(3)))
    seen: list[tuple[int, int]] = []
    parts = evaluation.survey(attack, model, data, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(parts.robust, whole.robust)
    assert torch.equal(parts.first_step, whole.first_step)
    assert parts.backwards == whole.backwards
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)


def test_entry_of_the_report(data: Dataset) -> None:
    size = {"bytes": 123, "bits_per_weight": 2.5, "sparsity": 0.25, "channel_sparsity": 0.0, "kept": ["conv1"]}
    attacks = {"fgsm": Fgsm(eps=0.1), "strong": Pgd(eps=0.2, restarts=2)}
    (entry,) = benchmark([Candidate("grey", Brightness(), size)], data, attacks)
    assert entry["clean"]["value"] == 0.9
    assert [a["value"] for a in entry["attacks"].values()] == [0.7, 0.5]
    assert entry["worst_case"]["value"] == 0.5
    assert entry["worst_case"]["n"] == 10
    assert entry["worst_case"]["ci95"][0] < 0.5 < entry["worst_case"]["ci95"][1]
    assert {key: entry[key] for key in ("bytes", "bits_per_weight", "sparsity", "channel_sparsity")} == {
        key: value for key, value in size.items() if key != "kept"
    }
    assert entry["latency_ms"] > 0
    assert set(entry["latency"]) == {"1", "64"}
    assert entry["details"]["strong"]["name"] == "pgd"
    assert entry["details"]["strong"]["options"]["restarts"] == 2
    assert entry["details"]["strong"]["radius"] == 0.2
    assert entry["details"]["fgsm"]["backwards"] == 9
    assert (entry["randomized"], entry["warnings"], entry["complete"]) == (False, [], True)


def test_worst_case_is_per_image(data: Dataset) -> None:
    # Each attack alone leaves images that the other one fools.
    class Bright(Fgsm):
        def update(self, state: Any, logits: Tensor, grad: Tensor, key: Any) -> Any:
            return {"x": (state["clean"] + 0.1).clamp(0, 1)}

    class Dark(Fgsm):
        def update(self, state: Any, logits: Tensor, grad: Tensor, key: Any) -> Any:
            return {"x": (state["clean"] - 0.1).clamp(0, 1)}

    attacks = {"bright": Bright(eps=0.1), "dark": Dark(eps=0.1)}
    (entry,) = benchmark([Candidate("grey", Brightness())], data, attacks, latency=False)
    assert [a["value"] for a in entry["attacks"].values()] == [0.8, 0.8]
    assert entry["worst_case"]["value"] == 0.7


def test_without_attacks_there_is_clean_accuracy_alone(data: Dataset) -> None:
    entries = benchmark([Candidate("a", Brightness()), Candidate("b", Brightness(-1))], data, {}, latency=False)
    assert [e["clean"]["value"] for e in entries] == [0.9, 0.1]
    assert [(e["attacks"], e["worst_case"], e["latency_ms"]) for e in entries] == [({}, None, None)] * 2


def test_an_interruption_leaves_what_was_done(data: Dataset) -> None:
    entries: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        if event["task"] == "b: second":
            raise KeyboardInterrupt

    candidates = [Candidate("a", Brightness()), Candidate("b", Brightness())]
    attacks = {"first": Fgsm(eps=0.1), "second": Pgd(eps=0.2)}
    with pytest.raises(KeyboardInterrupt):
        benchmark(candidates, data, attacks, latency=False, on_event=stop, entries=entries)
    assert [e["complete"] for e in entries] == [True, False]
    assert list(entries[1]["attacks"]) == ["first"]
    assert entries[1]["worst_case"]["value"] == 0.7


def test_a_masked_gradient_and_noise_are_warned_of(data: Dataset) -> None:
    rounded = nn.Sequential(nn.Threshold(0.5, 0.0), _Round(), Brightness())
    candidates = [Candidate("rounded", rounded), Candidate("noisy", Brightness(noise=0.01))]
    masked, noisy = benchmark(candidates, data, {"pgd": Pgd(eps=0.03)}, latency=False)
    assert "gradient is exactly zero for 9 of 10" in masked["warnings"][0]
    assert masked["details"]["pgd"]["zero_gradient"] == 9
    assert noisy["randomized"]
    assert "randomized" in noisy["warnings"][0]


class _Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round()


def test_batch_that_fits_shrinks_with_activations() -> None:
    image = torch.zeros(1, 1, 8, 8)
    assert fitting_batch(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), image) == 128
    # 64 x 8 x 8 x 4096 channels are 1 MiB of activations an image, and more for the head: a thousandth of the memory.
    wide = nn.Sequential(nn.Conv2d(1, 1 << 17, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1 << 17, 2))
    assert 1 <= fitting_batch(wide, image) < 12
