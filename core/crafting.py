"""Adversarial examples as files: craft them, store them with what they do, and draw a grid of them."""

import io
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from . import comparison
from .checkpoint import Checkpoint
from .driver import AttackResult, Progress, perturb
from .errors import OptionError, RobustqError
from .evaluation import predictions
from .fit import check_shape
from .recipe import Recipe
from .report import Proportion

GRID = 8  # columns of the picture


@dataclass(frozen=True)
class Crafted:
    """The images, labels and answers behind one attack; `content` goes into the report."""

    clean: Tensor  # (n, c, h, w) float32 in [0, 1]
    labels: Tensor  # (n,) int64
    answers: Tensor  # (n,) int64, for the clean images
    result: AttackResult
    recipe: Recipe  # as it was run
    content: dict[str, Any]

    def to_bytes(self) -> bytes:
        """A safetensors file: x, adversarial, y, clean_prediction, prediction, fooled, norm; one row an image."""
        tensors = {
            "x": self.clean,
            "adversarial": self.result.adversarial,
            "y": self.labels,
            "clean_prediction": self.answers,
            "prediction": self.result.predictions,
            "fooled": self.result.fooled,
            "norm": self.result.norms,
        }
        facts = {"robustq.adversarial": "1", "threat": str(self.content["threat"]), "data": str(self.content["data"])}
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, facts)

    def grid(self, rows: int = 4) -> bytes:
        """A PNG of up to `rows` rows of fooled images, clean and adversarial side by side, with the answers."""
        return _grid(self, rows)


def craft_examples(checkpoint: Checkpoint, recipe: Recipe, *, progress: Progress | None = None) -> Crafted:
    """Attack the recipe's images, else those the model was trained on, with the recipe's attack.

    Raises OptionError where there is not exactly one attack, and what loading, building and attacking raise.
    """
    recipe = comparison.with_recorded_data(recipe, [checkpoint])
    attacks = comparison.named_attacks(recipe)
    if len(attacks) != 1:
        raise OptionError(f"{len(attacks)} attacks are named.", "Examples are crafted with one: --attack pgd.")
    (attack,) = attacks.values()
    data, model = comparison.images(recipe), comparison.build(checkpoint, recipe)
    check_shape(model, data, checkpoint.source.path)
    x, y = data.batch(torch.arange(len(data)))
    answers = predictions(model, data, batch_size=recipe.run.batch_size)
    run = recipe.run
    result = perturb(
        attack, model, x, y, seed=run.seed, micro_batch=run.batch_size, predictions=answers, progress=progress
    )
    moved = result.norms[result.fooled]
    content = {
        "data": comparison.described(data),
        "threat": comparison.threat(attack),
        "n": len(y),
        "clean": Proportion(int(result.clean_correct.sum()), len(y)).to_dict(),
        "robust": Proportion(int(result.robust.sum()), len(y)).to_dict(),
        "fooled": int(result.fooled.sum()),
        "norms": {"max": float(moved.max()), "median": float(moved.median())} if len(moved) else None,
    }
    return Crafted(x, y, answers, result, recipe, content)


def _grid(crafted: Crafted, rows: int) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RobustqError("The picture needs matplotlib.", 'Install it: pip install "robustq[plot]".') from None
    chosen = crafted.result.fooled.nonzero()[:, 0][: rows * GRID // 2]
    if not len(chosen):
        raise RobustqError("No image was fooled, so there is nothing to draw.", "Leave --grid out, or raise --eps.")
    count = -(-len(chosen) // (GRID // 2))
    figure = Figure(figsize=(GRID * 1.3, count * 1.8 + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, i in enumerate(chosen.tolist()):
        clean, attacked = crafted.clean[i], crafted.result.adversarial[i]
        row, column = divmod(place, GRID // 2)
        for k, (image, answer) in enumerate(((clean, crafted.answers[i]), (attacked, crafted.result.predictions[i]))):
            axes = figure.add_subplot(count, GRID, row * GRID + 2 * column + k + 1)
            axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"{'clean' if k == 0 else 'adversarial'}\nsays {int(answer)}", fontsize=8)
            axes.axis("off")
    figure.suptitle(f"Fooled images (left: clean, right: adversarial), radius {crafted.content['threat']['radius']:g}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
