"""Layers that methods put into a network, which its class does not have: trained noise, quantized activations.

Their parameters are ordinary entries of the network's state dict, and `record` describes them in the file's header, so
that `architecture.build` puts them back before it loads the weights.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .activation import QuantizedReLU
from .errors import ArchitectureError, OptionError
from .noise import SignalNoise, WeightNoise

INPUT, OUTPUT = "input_noise", "output_noise"  # children of the layer that the images enter, and of any layer
WEIGHT = "_noise"  # LEAF_noise for the weight LEAF of a layer
KINDS = ("weight-noise", "input-noise", "output-noise", "quantized-relu")
T = TypeVar("T")
Inserted = WeightNoise | SignalNoise | QuantizedReLU


def parts(net: nn.Module) -> dict[str, Inserted]:
    """The inserted layers by their names in the network."""
    return {n: m for n, m in net.named_modules() if isinstance(m, (WeightNoise, SignalNoise, QuantizedReLU))}


def noisy(net: nn.Module) -> set[str]:
    """The layers of a network that noise was put into."""
    return {name.rpartition(".")[0] for name, part in parts(net).items() if not isinstance(part, QuantizedReLU)}


def record(net: nn.Module) -> list[dict[str, Any]]:
    """What the file's header says: [{"kind", options ..., "at": [names]}], equal options together."""
    found: list[dict[str, Any]] = []
    for name, part in parts(net).items():
        same = [entry for entry in found if {k: v for k, v in entry.items() if k != "at"} == part.spec]
        if not same:
            found.append({**part.spec, "at": []})
        (same or found)[-1]["at"].append(_place(name, part))
    return found


def restore(net: nn.Module, record: Iterable[Mapping[str, Any]], weights: Mapping[str, Tensor]) -> None:
    """Put the recorded layers into a fresh network; their strengths and resolutions are among `weights`."""
    for entry in record:
        options = {key: value for key, value in entry.items() if key != "at"}
        for place in entry["at"]:
            try:
                name = _name(entry["kind"], place)
                stored = weights.get(f"{name}.{'resolution' if entry['kind'] == 'quantized-relu' else 'strength'}")
                _PUT[entry["kind"]](net, place, 1 if stored is None else stored.numel(), 0.0, options)
            except (AttributeError, KeyError, OptionError) as error:
                raise ArchitectureError(
                    f"the file has {entry['kind']} at {place!r}, which does not fit the network: {error}",
                    "Check --arch and --arch-arg.",
                ) from None


def weight_noise(net: nn.Module, place: str, strengths: int, start: float, spec: Mapping[str, Any]) -> WeightNoise:
    """Noise on the weight of that name, drawn in every pass of its layer; what is there already is kept."""
    path, _, leaf = place.rpartition(".")
    layer = net.get_submodule(path)
    if isinstance(layer, nn.RNNBase):
        raise OptionError(
            f"{place} belongs to a {type(layer).__name__}, which keeps its weights apart.", "Leave it out."
        )
    if not isinstance(layer, NoisyWeights):
        layer.get_parameter(leaf)
        layer.__class__ = type(type(layer).__name__, (NoisyWeights, type(layer)), {})
    return _kept(layer, leaf + WEIGHT, lambda: WeightNoise(strengths, start, **spec))


def output_noise(net: nn.Module, place: str, strengths: int, start: float, spec: Mapping[str, Any]) -> SignalNoise:
    """Noise on what the layer of that name gives; what is there already is kept."""
    layer = net.get_submodule(place)
    if not hasattr(layer, OUTPUT):
        layer.register_forward_hook(_after)
    return _kept(layer, OUTPUT, lambda: SignalNoise(strengths, start, **spec))


def input_noise(net: nn.Module, place: str, strengths: int, start: float, spec: Mapping[str, Any]) -> SignalNoise:
    """Noise on what enters the layer of that name; what is there already is kept."""
    layer = net.get_submodule(place)
    if not hasattr(layer, INPUT):
        layer.register_forward_pre_hook(_before)
    return _kept(layer, INPUT, lambda: SignalNoise(strengths, start, **spec))


def quantized_relu(
    net: nn.Module, place: str, resolutions: int, start: float, spec: Mapping[str, Any]
) -> QuantizedReLU:
    """A quantized ReLU in place of the nn.ReLU of that name; one that is there already is kept."""
    found = net.get_submodule(place)
    if isinstance(found, QuantizedReLU):
        return _agreeing(place, found, spec)
    if not isinstance(found, nn.ReLU):
        raise OptionError(f"{place} is {type(found).__name__}, not ReLU.")
    path, _, leaf = place.rpartition(".")
    made = QuantizedReLU(start, **spec).to(_device(net))
    setattr(net.get_submodule(path), leaf, made)
    return made


def observed(
    net: nn.Module, images: Tensor, places: Iterable[str], of: Callable[[Tensor], T], outputs: bool = False
) -> dict[str, T]:
    """{layer: `of` what enters it first (or of its first `outputs`)} in one pass of images (n, c, h, w) through it.

    The pass is made in evaluation mode, and the network is left as it was; layers that are not used are missing.
    """
    found: dict[str, T] = {}

    def watched(place: str) -> Callable[..., None]:
        def look(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if place not in found:
                found[place] = of(output if outputs else inputs[0])

        return look

    handles = [net.get_submodule(place).register_forward_hook(watched(place)) for place in places]
    training = [(m, m.training) for m in net.modules()]
    try:
        with torch.no_grad():
            net.eval()(images)
    finally:
        for module, mode in training:
            module.training = mode
        for handle in handles:
            handle.remove()
    return found


_PUT: dict[str, Callable[[nn.Module, str, int, float, Mapping[str, Any]], Inserted]] = {
    "weight-noise": weight_noise,
    "input-noise": input_noise,
    "output-noise": output_noise,
    "quantized-relu": quantized_relu,
}


class NoisyWeights:
    """Mixed into the class of a layer: its weights are replaced by noisy ones during each forward pass."""

    _parameters: dict[str, Any]
    _modules: dict[str, Any]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        noisy = {n.removesuffix(WEIGHT): m for n, m in self._modules.items() if isinstance(m, WeightNoise)}
        clean = {leaf: self._parameters[leaf] for leaf in noisy}
        try:
            for leaf, noise in noisy.items():
                self._parameters[leaf] = noise(clean[leaf])
            return super().forward(*inputs, **named)  # type: ignore[misc]
        finally:
            self._parameters.update(clean)


def _after(layer: Any, _inputs: Any, output: Tensor) -> Tensor:
    return layer.output_noise(output)


def _before(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return layer.input_noise(inputs[0]), *inputs[1:]


def _kept(owner: nn.Module, child: str, make: Callable[[], Any]) -> Any:
    if child in dict(owner.named_children()):
        return _agreeing(child, getattr(owner, child), make().spec)
    if hasattr(owner, child):
        raise OptionError(f"the network has a {child!r} of its own.", "Rename it.")
    made = make().to(_device(owner))
    owner.add_module(child, made)
    return made


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _agreeing(place: str, part: Any, spec: Mapping[str, Any]) -> Any:
    if part.spec != dict(spec):
        raise OptionError(
            f"{place}: the network has {part.spec} there already, not {dict(spec)}.", "Give the same options, or none."
        )
    return part


def _place(name: str, part: Inserted) -> str:
    kind = part.spec["kind"]
    if kind == "weight-noise":
        return name.removesuffix(WEIGHT)
    return name if kind == "quantized-relu" else name.rpartition(".")[0]


def _name(kind: str, place: str) -> str:
    if kind == "quantized-relu":
        return place
    if kind == "weight-noise":
        return place + WEIGHT
    return f"{place}.{INPUT if kind == 'input-noise' else OUTPUT}"
