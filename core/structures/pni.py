"""Parametric noise injection: Gaussian noise on weights, images or activations, its strength trained with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import inserted
from ..errors import OptionError
from ..noise import Noise, SignalNoise, WeightNoise
from ..option import option
from ..session import Compressor, Session, Weights

LEVELS = ("layer", "channel", "element")
PLACES = ("weight", "input", "activation")


@dataclass(frozen=True, kw_only=True)
class Pni(Compressor):
    """v + a * eta in every forward pass, those of the attack included; a is trained, eta has the deviation of v.

    v are weights, the (normalised) images, or what each layer gives. The strengths are stored in the file that is
    written, and the network draws noise wherever it is used. The training log has validation figures both ways:
    `clean` and `robust` with noise, `clean_noise_off` and `robust_noise_off` without.
    """

    SOURCE = "He et al. 2019 (CVPR, Parametric noise injection)"
    on: tuple[str, ...] = option(("weight",), "what gets noise, one or several: weight, input, activation")
    level: str = option("channel", "what shares a strength a", choices=LEVELS)
    start: float = option(0.25, "strength at the beginning", unit="standard deviations of v")
    deviation: str = option(
        "sample",
        "whose deviation noise on images and activations has; `batch` replicates the released code, where the other "
        "images of the batch change a prediction",
        choices=("sample", "batch"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.on or set(self.on) - set(PLACES):
            raise OptionError(f"Pni: on is {','.join(self.on) or 'empty'}.", f"Name some of: {', '.join(PLACES)}.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return NoiseSession(weights, self.level, self.start, self.on, self.deviation)


class NoiseSession(Session):
    """No state of its own: the strengths are parameters of the network."""

    def __init__(
        self, weights: Weights, level: str, start: float, on: Sequence[str] = ("weight",), deviation: str = "sample"
    ) -> None:
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.level, self.start, self.on, self.deviation = level, start, on, deviation
        self.layers: list[WeightNoise | SignalNoise] = []

    def install(self, net: nn.Module, images: Tensor) -> None:
        add: list[WeightNoise | SignalNoise] = self.layers
        if "weight" in self.on:
            spec = {"kind": "weight-noise", "level": self.level}
            for name, shape in self.shapes.items():
                add.append(inserted.weight_noise(net, name, self._strengths(shape), self.start, spec))
        rest = {"level": self.level, "over": self.deviation}
        if "activation" in self.on:
            places = list(dict.fromkeys(name.rpartition(".")[0] for name in self.shapes))
            shapes = inserted.observed(net, images, places, lambda y: tuple(y.shape[1:]), outputs=True)
            for place, shape in shapes.items():
                spec = {"kind": "output-noise", **rest}
                add.append(inserted.output_noise(net, place, self._strengths(shape), self.start, spec))
        if "input" in self.on:
            spec = {"kind": "input-noise", **rest}
            add.append(
                inserted.input_noise(net, _entry(net, images), self._strengths(images.shape[1:]), self.start, spec)
            )

    def join(self, optimizer: Optimizer) -> None:
        if self.layers:
            optimizer.add_param_group({"params": [layer.strength for layer in self.layers], "weight_decay": 0.0})

    def metrics(self) -> dict[str, float]:
        """Mean |a|."""
        amounts = [layer.strength.detach().abs().mean() for layer in self.layers]
        return {"noise": float(torch.stack(amounts).mean())} if amounts else {}

    def _strengths(self, shape: Sequence[int]) -> int:
        """How many strengths noise on something of this shape has, its channels first."""
        return {"layer": 1, "channel": shape[0], "element": math.prod(shape)}[self.level]


def _entry(net: nn.Module, images: Tensor) -> str:
    """The one layer that the images themselves enter."""
    layers = [name for name, m in net.named_modules() if all(isinstance(c, Noise) for c in m.children())]
    same = inserted.observed(net, images, layers, lambda x: x is images)
    found = [name for name, entered in same.items() if entered]
    if len(found) != 1 or not found[0]:
        seen = ", ".join(found) or "none"
        raise OptionError(f"pni: the layers that images enter directly are: {seen}; one is needed.", "Give on=weight.")
    return found[0]
