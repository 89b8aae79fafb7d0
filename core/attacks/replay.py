"""Replay of the float parent's adversarials, crafted in process: the first thing to try on a compressed model."""

import tempfile
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..inference import Net, device_of, frozen
from ..option import option
from ..stepping import advance, gradient
from .apgd import ApgdCe
from .attack import Attack, Key, State, begin
from .norms import NORMS
from .pgd import Pgd

VARIANTS = 2  # adversarials of each image: of Auto-PGD on the cross entropy, of PGD on the margin


@dataclass(frozen=True, kw_only=True)
class Replay(Attack):
    """Adversarials of the float parent, crafted at full strength on it, drawn into the ball and judged on the model."""

    SOURCE = "Papernot et al. 2016"
    uses_gradient = False
    steps: int = option(50, "steps on the parent", low=1)

    @property
    def repeats(self) -> int:
        return VARIANTS

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        """Raises OptionError where no parent is known."""
        store = self.knowledge.parent
        if store is None:
            raise OptionError(
                "replay: the float parent is not known.",
                "Give --parent FILE, or name the parent among the models, or put it beside its child's file.",
            )
        variant = key[-1] if isinstance(key[-1], int) else 0
        seed = key[0] if isinstance(key[0], int) else 0
        found = store.adversarials(self, x, y, seed, index)[:, variant % VARIANTS].to(x)
        return {"x": (x + NORMS[self.norm].project(found - x, self.radius)).clamp_(0, 1)}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        return {}


@dataclass
class Parent:
    """A float model and the adversarials crafted on it, for all models that were made from it.

    Images are crafted when they are first asked for, and kept on disk (a file without a name), so that memory does not
    grow with the data set. `images` is how many places the data set has, `sha256` that of the model's file.
    """

    model: Net
    images: int
    sha256: str = ""
    batch: int = 64
    _kept: dict[tuple[object, ...], "_Kept"] = field(default_factory=dict, repr=False)

    def adversarials(self, attack: Replay, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """x (k, c, h, w), y (k,), places index (k,) -> (k, VARIANTS, c, h, w) on the CPU."""
        name = (attack.norm, attack.radius, attack.steps, seed, tuple(x.shape[1:]))
        if name not in self._kept:
            self._kept[name] = _Kept(self.images, tuple(x.shape[1:]))
        kept, rows = self._kept[name], index.cpu()
        new = ~kept.there(rows, x)
        if new.any():
            crafted = [
                self._crafted(attack, x[part], y[part], rows[part], seed)
                for part in new.nonzero()[:, 0].split(self.batch)
            ]
            kept.put(rows[new], x[new], torch.cat(crafted))
        return kept.get(rows)

    def _crafted(self, attack: Replay, x: Tensor, y: Tensor, index: Tensor, seed: int) -> Tensor:
        device = device_of(self.model, x.device)
        x, y = x.to(device), y.to(device)
        first = ApgdCe(eps=attack.radius, norm=attack.norm, steps=attack.steps)
        second = Pgd(eps=attack.radius, norm=attack.norm, steps=attack.steps, loss="margin")
        with frozen(self.model):
            found = [_strongest(a, self.model, x, y, (seed, "replay", i), index) for i, a in enumerate((first, second))]
        return torch.stack(found, 1).cpu()


def _strongest(attack: Attack, model: Net, x: Tensor, y: Tensor, key: Key, index: Tensor) -> Tensor:
    """x (n, c, h, w) -> the point of the highest loss: unlike one on the boundary, it still fools a near relative."""
    state = begin(attack, x, y, key, index)
    for _ in range(attack.iterations):
        state = advance(attack, state, *gradient(attack, model, state), key)
    return attack.final(state, True)


class _Kept:
    """(images, VARIANTS, c, h, w) float32 in a file without a name, and which images of it were crafted."""

    def __init__(self, images: int, shape: tuple[int, ...]) -> None:
        with tempfile.TemporaryFile() as file:  # closed, it stays mapped as long as the array lives
            self._values = np.memmap(file, np.float32, "w+", shape=(images, VARIANTS, *shape))
        self._sums = torch.full((images,), float("nan"))  # of the images themselves: other images are crafted anew

    def there(self, rows: Tensor, x: Tensor) -> Tensor:
        return self._sums[rows] == _sum(x)

    def put(self, rows: Tensor, x: Tensor, found: Tensor) -> None:
        self._values[rows.numpy()] = found.numpy()
        self._sums[rows] = _sum(x)

    def get(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(np.array(self._values[rows.numpy()]))


def _sum(x: Tensor) -> Tensor:
    return x.double().flatten(1).sum(1).float().cpu()
