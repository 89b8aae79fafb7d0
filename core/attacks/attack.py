"""The interface of an attack. The driver in `evaluation.py` owns everything else: batching, dropping, seeds, counts.

An attack is a start and an update on per-sample tensors, so that rows can leave and enter between any two steps.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..option import Method, option
from .norms import NORMS

State = dict[str, Tensor]  # per-sample tensors only: the driver selects rows of every entry when samples are dropped
Key = tuple[int | str, ...]  # names a stream of draws: (seed, attack, restart); each image adds its own index


@dataclass(frozen=True, kw_only=True)
class Attack(Method):
    """An attack on inputs in [0, 1]; pixels are clipped to the box by the attack, verified by the driver.

    A state holds, beside what `start` returns,
    `clean` (n, c, h, w) the image, `y` (n,) its label, `index` (n,) its place in the data set (keys its draws), and
    `taken` (n,) how many steps it has had. `x` (n, c, h, w) is the point that is evaluated next.
    """

    eps: float | None = option(None, "radius; without one, that of the data set", unit="input units in [0, 1]", low=0.0)
    norm: str = option("linf", "norm of the perturbation", choices=tuple(NORMS))

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        """x (n, c, h, w) in [0, 1], y (n,) -> the attack's own entries, `x` among them; draws by key and index."""
        raise NotImplementedError

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        """The entries one step changes: logits (n, classes) and finite gradient of `objective`, both at state["x"]."""
        raise NotImplementedError

    def objective(self, state: State, logits: Tensor) -> Tensor:
        """(n,) what the attack increases, one value a sample."""
        return F.cross_entropy(logits, state["y"], reduction="none")

    def success(self, state: State, logits: Tensor) -> Tensor:
        """(n,) bool: whether a sample has what the attack is after, so that it needs no further step."""
        return logits.argmax(1) != state["y"]

    @property
    def radius(self) -> float:
        """The bound on the perturbation in `norm`, verified on every claimed adversarial."""
        if self.eps is None:
            raise OptionError(
                f"{type(self).__name__}: there is no radius.",
                "Give --eps, in input units: 0.1 or 8/255. Only data sets known by name have one of their own.",
            )
        return self.eps

    @property
    def iterations(self) -> int:
        """How many steps one start takes."""
        return 1

    @property
    def repeats(self) -> int:
        """How many independent starts there are."""
        return 1


def begin(attack: Attack, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
    """The complete state of samples that start: x (n, c, h, w) in [0, 1], y (n,) int64, index (n,) int64."""
    taken = torch.zeros_like(y)
    return {"clean": x, "y": y, "index": index, "taken": taken} | attack.start(x, y, key, index)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(n, classes), (n,) -> (n,) the highest other logit minus that of class y (Carlini & Wagner 2017)."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.amax(1) - own[:, 0]
