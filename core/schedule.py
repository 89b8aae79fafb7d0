"""The learning rate as a function of training progress, so that a schedule works for one epoch as for two hundred."""

import math

from .recipe import TrainPart


def learning_rate(settings: TrainPart, progress: float) -> float:
    """The learning rate at a training progress in [0, 1]."""
    assert settings.lr is not None
    if progress < settings.warmup:
        return settings.lr * progress / settings.warmup
    if settings.schedule == "step":
        return settings.lr * 0.1 ** sum(progress >= drop for drop in settings.drops)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * (progress - settings.warmup) / (1 - settings.warmup)))
    return settings.lr
