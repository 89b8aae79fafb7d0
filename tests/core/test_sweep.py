"""Accuracy against the radius, and the images for a page."""

import base64
import dataclasses

import pytest
import torch
from torch import nn

from robustq.core import datasets
from robustq.core.attacks.ensemble import Quick
from robustq.core.attacks.pgd import Pgd
from robustq.core.datasets.dataset import Dataset
from robustq.core.errors import OptionError
from robustq.core.evaluation import robust_accuracy
from robustq.core.illustration import IMAGES, SIDE, Illustration
from robustq.core.sweep import MULTIPLES, Sweep, curve


class Brightness(nn.Module):
    """Two classes, dark and bright, told apart by the mean: an image falls at exactly its distance from 1/2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.flatten(1).mean(1) - 0.5
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def shades() -> Dataset:
    """Four grey images, 0.05, 0.15, 0.25 and 0.35 away from the boundary, and one that is wrong anyway."""
    levels = torch.tensor([0.45, 0.65, 0.25, 0.85, 0.9])
    return Dataset("shades", "test", levels.view(5, 1, 1, 1).expand(5, 1, 4, 4), torch.tensor([0, 1, 0, 1, 0]), 2, 1.0)


def test_each_image_falls_at_its_distance(shades: Dataset) -> None:
    sweep = Sweep(radii=(0.0, 0.04, 0.1, 0.2, 0.3, 0.4))
    plan = sweep.planned({"pgd": Pgd(eps=0.1)})
    assert plan is not None
    told: list[tuple[int, int]] = []
    found = curve(plan, Brightness(), shades, progress=lambda *done: told.append(done))
    assert told == [(i, 6) for i in range(6)]
    assert [point["eps"] for point in found] == list(sweep.radii)
    assert [round(5 * point["accuracy"]["value"]) for point in found] == [4, 4, 3, 2, 1, 0]
    assert all(point["accuracy"]["n"] == 5 for point in found)


def test_a_point_is_the_accuracy_at_that_radius(shades: Dataset) -> None:
    plan = Sweep(radii=(0.1,), limit=3).planned({"pgd": Pgd(eps=0.2, step=0.05)})
    assert plan is not None
    half = plan.at(0.1).options()
    assert (half["eps"], half["step"]) == (0.1, pytest.approx(0.025))
    (point,) = curve(plan, Brightness(), shades, seed=3)
    assert point["accuracy"] == robust_accuracy(Brightness(), shades.first(3), plan.at(0.1), seed=3).to_dict()


def test_automatic_radii_and_what_stands_in_for_an_ensemble() -> None:
    plan = Sweep().planned({"pgd-1": Pgd(eps=0.1), "pgd-2": Pgd(eps=0.2)})
    assert plan is not None
    assert plan.label == "pgd-1"
    assert plan.radii == pytest.approx([0.1 * m for m in MULTIPLES])
    plan = Sweep().planned({"quick": Quick(eps=0.5)})
    assert plan is not None
    assert (plan.label, type(plan.attack)) == ("pgd", Pgd)
    assert max(plan.radii) == 1.0
    assert len(set(plan.radii)) == len(plan.radii)
    assert Sweep().planned({}) is None
    assert Sweep(radii=(0.1,)).planned({}) is not None


def test_parsing() -> None:
    assert Sweep.parse(None, None, default=False) is None
    assert Sweep.parse("none", None, default=True) is None
    assert Sweep.parse(None, None, default=True) == Sweep()
    assert Sweep.parse("8/255, 0,0", 7, default=False) == Sweep(radii=(0.0, 8 / 255), limit=7)
    for radii, limit in (("-0.1", None), (",", None), ("x", None), ("auto", 0), ("none", 5)):
        with pytest.raises(OptionError, match="sweep"):
            Sweep.parse(radii, limit, default=True)


def test_examples_are_chosen_before_the_attack_and_drawn_as_in_the_whole_set(shades: Dataset) -> None:
    shown = Illustration.of("pgd", Pgd(eps=0.1), shades)
    assert shown.index.tolist() == [0, 1]
    described = shown.described()
    assert [image["label"] for image in described["images"]] == [0, 1]
    answers = shown.answers(Brightness())
    assert [row["fooled"] for row in answers] == [True, False]  # 0.05 and 0.15 away
    assert [row["clean_prediction"] for row in answers] == [0, 1]
    assert answers[0]["prediction"] == 1
    assert answers[0]["norm"] <= 0.1 + 1e-6
    for row in answers:
        assert base64.b64decode(row["adversarial"], validate=True).startswith(b"\x89PNG")


def test_large_images_are_reduced_for_the_page_only(shades: Dataset) -> None:
    large = dataclasses.replace(shades, images=torch.full((5, 3, 2 * SIDE + 1, 10), 0.45))
    described = Illustration.of("pgd", Pgd(eps=0.1), large).described()
    assert described["reduced"] == 3
    assert int.from_bytes(base64.b64decode(described["images"][0]["png"])[20:24], "big") <= SIDE


def test_class_names() -> None:
    data = datasets.load("fashion-mini")
    assert data.class_names[int(data.labels[0])]
    assert len(data.class_names) == data.classes
    assert len(Illustration.of("pgd", Pgd(eps=0.1), data).index) == IMAGES
