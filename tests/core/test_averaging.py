"""Averages of weights: golden values, what is exported, resume."""

import pytest
import torch

from robustq.core.averaging import Average
from robustq.core.errors import OptionError
from robustq.core.recipe import AveragePart, Recipe
from robustq.core.training import train

RUN = [{"w": torch.tensor([float(v)])} for v in (1, 2, 4, 8, 16)]


def averaged(options: AveragePart) -> Average:
    average = Average(options)
    for step, weights in enumerate(RUN, 1):
        average.update(weights, step, step / len(RUN))
    return average


def test_ema_decays_faster_at_first() -> None:
    value = 1.0
    for count, weight in enumerate([2, 4, 8, 16], 2):
        decay = min(0.3, (1 + count) / (10 + count))
        value = decay * value + (1 - decay) * weight
    assert averaged(AveragePart(kind="ema", decay=0.3)).values["w"].item() == pytest.approx(value)


@pytest.mark.parametrize(("start", "cycle", "expected"), [(0.0, 1, 6.2), (0.6, 1, 28 / 3), (0.0, 2, 5.0), (1.0, 1, 16)])
def test_swa_is_the_plain_mean_from_its_start_on(start: float, cycle: int, expected: float) -> None:
    average = averaged(AveragePart(kind="swa", start=start, cycle=cycle))
    assert average.values["w"].item() == pytest.approx(expected)


def test_none_holds_nothing_and_the_weights_are_not_touched() -> None:
    assert not averaged(AveragePart()).active
    average = averaged(AveragePart(kind="ema", decay=0.0))
    assert average.values["w"].item() == 16
    assert [w["w"].item() for w in RUN] == [1, 2, 4, 8, 16]


def recipe(quadrants: str, **average: object) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {"arch": "resnet", "args": {"depth": 8, "width": 4, "channels": 1, "classes": 4}},
            "data": {"name": quadrants, "limit": 80},
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.05, "bn_images": 32},
            "average": average,
        }
    )


def test_the_average_is_what_is_exported(quadrants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    update = Average.update

    def watch(self: Average, weights: dict[str, torch.Tensor], step: int, progress: float) -> None:
        seen.append({name: w.detach().clone() for name, w in weights.items()})
        update(self, weights, step, progress)

    monkeypatch.setattr(Average, "update", watch)
    result = train(recipe(quadrants, kind="swa", start=0.5))
    if result.checkpoint.meta["validation"]["epoch"] == 2:  # else the first epoch was better
        mean = torch.stack([w["conv1.weight"] for w in seen[4:]]).mean(0)
        torch.testing.assert_close(result.checkpoint.weights["conv1.weight"], mean)
    assert len(seen) == 8
    assert result.checkpoint.meta["recipe"]["average"]["kind"] == "swa"


def test_recipes_without_one_do_not_mention_it(quadrants: str) -> None:
    assert "average" not in recipe(quadrants).to_dict()
    assert "distill" not in recipe(quadrants).to_dict()
    given = recipe(quadrants).with_values(["average.kind=ema"])
    assert given.to_dict()["average"]["decay"] == 0.999
    assert Recipe.from_dict({k: v for k, v in given.to_dict().items() if v is not None}) == given


def test_batch_norm_must_be_estimated_anew(quadrants: str) -> None:
    with pytest.raises(OptionError, match="averaged weights need batch-norm statistics"):
        train(recipe(quadrants, kind="ema").with_values(["train.bn_images=0"]))
    with pytest.raises(OptionError, match="kind is 'mean'"):
        recipe(quadrants, kind="mean")
