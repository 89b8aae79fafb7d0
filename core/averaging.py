"""Averages of weights over training steps, which are exported in place of the last weights: EMA and SWA."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .recipe import AveragePart


class Average:
    """The running average of the latent weights. Without one (kind "none") it is the weights themselves.

    "ema": a <- d a + (1 - d) w after every step, d = min(decay, (1 + t) / (10 + t)) at step t, so that the first
    weights are soon forgotten. "swa": the plain mean of the weights at every `cycle`-th step from `start` on
    (Izmailov et al. 2018, arXiv 1803.05407, algorithm 1); before that the weights themselves.
    """

    def __init__(self, options: AveragePart) -> None:
        self.options = options
        self.values: dict[str, Tensor] = {}
        self.count = 0

    @property
    def active(self) -> bool:
        """Whether exported weights are an average."""
        return bool(self.values)

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int, progress: float) -> None:
        """Take in the weights after so many steps, at this training progress in [0, 1]."""
        options = self.options
        swa = options.kind == "swa"
        if options.kind == "none" or (swa and (progress < options.start or step % options.cycle)):
            return
        now = [w.detach() for w in weights.values()]
        if not self.values:
            self.values, self.count = {n: w.clone() for n, w in zip(weights, now, strict=True)}, 1
            return
        self.count += 1
        share = 1 / self.count if swa else 1 - min(options.decay, (1 + self.count) / (10 + self.count))
        for value, weight in zip((self.values[name] for name in weights), now, strict=True):
            value.lerp_(weight, share)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values, self.count = dict(state["values"]), int(state["count"])
