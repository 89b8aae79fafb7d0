"""A few images, clean and attacked, with what each model says of them: for looking at, not for measuring."""

import base64
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import png
from .attacks.attack import Attack, Knowledge
from .attacks.replay import Parent
from .datasets.dataset import Dataset
from .driver import perturb
from .evaluation import predictions

IMAGES = 8
SIDE = 96  # pixels; larger images are averaged down for the report, not for the attack


@dataclass(frozen=True)
class Illustration:
    """The images that every model is shown: the first of each of the first classes, chosen before any attack."""

    label: str
    attack: Attack
    data: Dataset
    index: Tensor  # (k,) int64 places in the data

    @classmethod
    def of(cls, label: str, attack: Attack, data: Dataset) -> "Illustration":
        """The first image of each class, in the order of the data, at most `IMAGES`."""
        first = {int(y): i for i, y in reversed(list(enumerate(data.labels.tolist())))}
        return cls(label, attack, data, torch.tensor(sorted(first.values())[:IMAGES], dtype=torch.int64))

    def described(self) -> dict[str, Any]:
        """The clean images, for the report."""
        x, y = self.data.batch(self.index)
        images = [
            {"index": int(i), "label": int(label), "png": _shown(image)}
            for i, label, image in zip(self.index, y, x, strict=True)
        ]
        names = list(self.data.class_names) or None
        facts = {"attack": self.label, "norm": self.attack.norm, "radius": self.attack.radius}
        return {**facts, "reduced": _factor(x), "class_names": names, "images": images}

    def informed(self, parent: Parent | None) -> "Illustration":
        """The same, its attack knowing the float parent of the model that it is shown to."""
        return replace(self, attack=self.attack.informed(Knowledge(parent)))

    def answers(self, model: nn.Module, *, seed: int = 0, batch_size: int | None = None) -> list[dict[str, Any]]:
        """What the attack makes of each image on one model, with the draws it has in the whole data set.

        `perturbation` is stretched: the middle grey is no change, black and white the largest change in that image.
        """
        x, y = self.data.batch(self.index)
        clean = predictions(model, self.data.select(self.index), batch_size=batch_size)
        found = perturb(
            self.attack, model, x, y, index=self.index, seed=seed, micro_batch=batch_size, predictions=clean
        )
        rows = []
        for i in range(len(y)):
            change = found.adversarial[i] - x[i]
            stretched = 0.5 + 0.5 * change / change.abs().max().clamp_min(1e-12)
            rows.append(
                {
                    "clean_prediction": int(clean[i]),
                    "prediction": int(found.predictions[i]),
                    "fooled": bool(found.fooled[i]),
                    "norm": round(float(found.norms[i]), 6),
                    "adversarial": _shown(found.adversarial[i]),
                    "perturbation": _shown(stretched),
                }
            )
        return rows


def _factor(x: Tensor) -> int:
    """By what the sides of (..., h, w) are divided for the report."""
    return max(1, -(-max(x.shape[-2:]) // SIDE))


def _shown(image: Tensor) -> str:
    """(c, h, w) in [0, 1] -> a PNG in base64."""
    factor = _factor(image)
    small = F.avg_pool2d(image[None], factor, ceil_mode=True)[0] if factor > 1 else image
    return base64.b64encode(png.encode(small)).decode()
