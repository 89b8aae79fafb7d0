"""Parametric noise injection: Gaussian noise on weights, images or activations, its strength trained with them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

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

    def install(self, net: nn.Module, image: Tensor) -> None:
        add: list[WeightNoise | SignalNoise] = self.layers
        if "weight" in self.on:
            spec = {"kind": "weight-noise", "level": self.level}
            for name, shape in self.shapes.items():
                add.append(inserted.weight_noise(net, name, self._strengths(shape), self.start, spec))
        rest = {"level": self.level, "over": self.deviation}
        if "activation" in self.on:
            places = list(dict.fromkeys(name.rpartition(".")[0] for name in self.shapes))
            for place, shape in _outputs(net, places, image).items():
                spec = {"kind": "output-noise", **rest}
                add.append(inserted.output_noise(net, place, self._strengths(shape), self.start, spec))
        if "input" in self.on:
            spec = {"kind": "input-noise", **rest}
            add.append(
                inserted.input_noise(net, _entry(net, image), self._strengths(image.shape[1:]), self.start, spec)
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


def _outputs(net: nn.Module, places: Sequence[str], image: Tensor) -> dict[str, tuple[int, ...]]:
    """Layer -> (c, ...) of what it gives for one image."""
    found: dict[str, tuple[int, ...]] = {}

    def watched(place: str) -> Callable[..., None]:
        return lambda _layer, _inputs, output: found.update({place: tuple(output.shape[1:])})

    _run(net, image, [net.get_submodule(place).register_forward_hook(watched(place)) for place in places])
    return found


def _entry(net: nn.Module, image: Tensor) -> str:
    """The one layer that the image itself enters."""
    found: list[str] = []

    def watched(name: str) -> Callable[..., None]:
        return lambda _layer, inputs: found.append(name) if inputs and inputs[0] is image else None

    parts = [(name, m) for name, m in net.named_modules() if all(isinstance(c, Noise) for c in m.children())]
    _run(net, image, [m.register_forward_pre_hook(watched(name), prepend=True) for name, m in parts])
    if len(found) != 1 or not found[0]:
        seen = ", ".join(found) or "none"
        raise OptionError(f"pni: the layers that images enter directly are: {seen}; one is needed.", "Give on=weight.")
    return found[0]


def _run(net: nn.Module, image: Tensor, watches: Sequence[RemovableHandle]) -> None:
    """One pass in evaluation mode, after which nothing is watched and the network is as it was."""
    training = [(m, m.training) for m in net.modules()]
    try:
        with torch.no_grad():
            net.eval()(image)
    finally:
        for module, mode in training:
            module.training = mode
        for watch in watches:
            watch.remove()
