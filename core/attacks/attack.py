"""The interface of an attack. The driver owns everything else: batching, dropping, restarts, seeds, counts.

An attack is a start and an update on per-sample tensors, so that rows can leave and enter between any two steps.
"""

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..option import Method, option
from .norms import NORMS

if TYPE_CHECKING:
    from .replay import Parent

A = TypeVar("A", bound="Attack")
State = dict[str, Tensor]  # per-sample tensors only: the driver selects rows of every entry when samples are dropped
_STEP_STREAM = 1 << 32  # above any image index: an image has one stream of draws for each of its steps
Key = tuple[int | str, ...]  # names a stream of draws: (seed, attack, restart); each image adds its own index


@dataclass(frozen=True)
class Knowledge:
    """What is known of the model that is attacked, beside its answers: of use to ensembles and to replay.

    parent the float model that it was made from, with the adversarials crafted there; None where it is not known
    randomized whether it draws noise
    """

    parent: "Parent | None" = None
    randomized: bool = False


@dataclass(frozen=True, kw_only=True)
class Attack(Method):
    """An attack on inputs in [0, 1]; pixels are clipped to the box by the attack, verified by the driver.

    A state holds, beside what `start` returns,
    `clean` (n, c, h, w) the image, `y` (n,) its label, `index` (n,) its place in the data set (keys its draws), and
    `taken` (n,) how many steps it has had. `x` (n, c, h, w) is the point that is evaluated next. Where the attack
    `sees_answers`, `clean_logits` (n, classes) are those of the image itself.
    """

    uses_gradient: ClassVar[bool] = True  # otherwise nothing is differentiated, and `update` gets gradients (n, 0)
    minimal: ClassVar[bool] = False  # seeks the smallest perturbation of each image, beyond the radius too
    straight_through: ClassVar[bool] = False  # passes rounding from the first step on, where the model rounds
    knowledge: ClassVar[Knowledge] = Knowledge()  # replaced by `informed`, object by object
    caveat: ClassVar[str] = ""  # what whoever reads its result must know; a warning in the report

    eps: float | None = option(None, "radius; without one, that of the data set", unit="input units in [0, 1]", low=0.0)
    norm: str = option("linf", "norm of the perturbation", choices=tuple(NORMS))
    eot: int = option(1, "passes averaged in each step, for networks that draw noise (20 is customary)", low=1)

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        """x (n, c, h, w) in [0, 1], y (n,) -> the attack's own entries, `x` among them; draws by key and index."""
        raise NotImplementedError

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        """The entries one step changes: logits (n, classes) and finite gradient of `objective`, both at state["x"].

        state["value"] (n,) is the objective there.
        """
        raise NotImplementedError

    def final(self, state: State, randomized: bool) -> Tensor:
        """(n, c, h, w) what is judged where no step succeeded: the last point, which no step has evaluated.

        A randomized model is judged here alone, so that attacks which know their best point give that one then. A
        minimal-norm attack hands in the point it holds nearest, which is judged beside all that were evaluated; as a
        member of an ensemble it is drawn into the ball.
        """
        return state["x"]

    def objective(self, state: State, logits: Tensor) -> Tensor:
        """(n,) what the attack increases, one value a sample."""
        return F.cross_entropy(logits, state["y"], reduction="none")

    def success(self, state: State, logits: Tensor) -> Tensor:
        """(n,) bool: whether a sample has what the attack is after, so that it needs no further step."""
        return logits.argmax(1) != state["y"]

    def finished(self, state: State, logits: Tensor) -> Tensor:
        """(n,) bool: images that need no further step although they may have had no success."""
        return torch.zeros_like(state["y"], dtype=torch.bool)

    @property
    def sees_answers(self) -> bool:
        """Whether the state holds `clean_logits`, the model's answers to the images themselves."""
        return False

    def fitted(self, classes: int) -> "Attack":
        """The attack for a model of so many classes; asked of attacks that see answers."""
        return self

    def rescaled(self) -> "Attack | None":
        """The same attack with a loss that logits of any scale have a gradient of; None if that is so anyway."""
        return None

    def remarks(self) -> list[str]:
        """What whoever reads its result must know, in sentences; warnings in the report."""
        return [self.caveat] if self.caveat else []

    def informed(self: A, knowledge: Knowledge) -> A:
        """The same attack, which knows this of the model; not an option, and not recorded as one."""
        found = copy(self)
        object.__setattr__(found, "knowledge", knowledge)
        return found

    @property
    def members(self) -> "tuple[Attack, ...]":
        """The attacks that follow each other, each on what the ones before it left robust; itself, unless several."""
        return (self,)

    @property
    def files_read(self) -> tuple[str, ...]:
        """The files that the attack reads, whose content a stored result depends on."""
        return ()

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


def begin(attack: Attack, x: Tensor, y: Tensor, key: Key, index: Tensor, clean_logits: Tensor | None = None) -> State:
    """The complete state of samples that start: x (n, c, h, w) in [0, 1], y (n,) int64, index (n,) int64.

    clean_logits (n, classes) where the attack asks for them.
    """
    state = {"clean": x, "y": y, "index": index, "taken": torch.zeros_like(y)}
    if clean_logits is not None:
        state["clean_logits"] = clean_logits
    return state | attack.start(x, y, key, index)


def stream(state: State) -> Tensor:
    """(n,) int64 the index of the draws of this step of each image."""
    return state["index"] + _STEP_STREAM * (state["taken"] + 1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """(n, classes), (n,) -> (n,) the highest other logit minus that of class y (Carlini & Wagner 2017)."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], float("-inf"))
    return others.amax(1) - own[:, 0]
