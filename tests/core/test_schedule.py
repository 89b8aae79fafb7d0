"""The learning rate over training progress."""

import pytest

from robustq.core.recipe import TrainPart
from robustq.core.schedule import learning_rate


def test_cosine_golden() -> None:
    settings = TrainPart(lr=0.1, schedule="cosine")
    assert [learning_rate(settings, p) for p in (0, 0.5, 1)] == pytest.approx([0.1, 0.05, 0.0])


def test_step_falls_tenfold_at_each_drop() -> None:
    settings = TrainPart(lr=1.0, schedule="step", drops=(0.5, 0.75))
    assert [learning_rate(settings, p) for p in (0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])


def test_constant() -> None:
    assert learning_rate(TrainPart(lr=0.3, schedule="constant"), 0.9) == 0.3


def test_warmup_rises_to_the_full_rate_without_a_jump() -> None:
    settings = TrainPart(lr=0.1, warmup=0.1)
    assert learning_rate(settings, 0.05) == pytest.approx(0.05)
    assert learning_rate(settings, 0.1 - 1e-9) == pytest.approx(learning_rate(settings, 0.1), rel=1e-6)
