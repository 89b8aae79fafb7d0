"""The packed twin of a model: the same network run from its low-bit codes, and what that costs and changes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustq.kernels import PackedConv2d, PackedLinear, PackedNetwork, fuse, pack_model, status

from .architecture import Classifier
from .checkpoint import Checkpoint
from .datasets.dataset import Dataset
from .evaluation import predictions
from .inference import device_of, frozen
from .latency import in_turns
from .noise import noises
from .packed import Quantized
from .report import Proportion

MODES = ("exact", "accurate", "int8")
IMAGES = 64  # that outputs are compared on
BATCHES = (1, 64)  # that times are measured for


@dataclass(frozen=True)
class Twin:
    """A packed model: "exact" is float32, "accurate" and "int8" round activations to 16 and 8 bits."""

    mode: str
    layers: int
    model: nn.Module


class ChannelsLast(nn.Module):
    """A model whose convolutions run channels last, as integer kernels do: one conversion instead of two a layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.contiguous(memory_format=torch.channels_last))


def twin(checkpoint: Checkpoint, model: Classifier, probe: Tensor, mode: str | None = None) -> Twin | None:
    """The model packed in a mode, by default "exact"; None where no layer can be packed.

    What can be is fused (`robustq.kernels.fuse`) and so evaluates whatever mode it is put in. probe
    (n, c, h, w) tells whether a network can be fused and can run channels last.
    """
    if any(not layer.silent for layer in noises(model)):
        return None  # packed layers have no place for noise on their weights
    mode = mode or MODES[0]
    codes = {name: tensor for name, tensor in checkpoint.packed.items() if isinstance(tensor, Quantized)}
    if not codes:
        return None
    net = pack_model(model.net, codes, mode)
    layers = sum(isinstance(layer, PackedLinear | PackedConv2d) for layer in net.modules())
    if not layers:
        return None
    if len(probe):
        net = fuse(net.eval(), (probe[:4].to(model.mean.device) - model.mean) / model.std)
    made = Classifier(net, None, None)
    made.mean, made.std = model.mean, model.std
    return Twin(mode, layers, _channels_last(made, probe))


def _channels_last(made: Classifier, probe: Tensor) -> nn.Module:
    """Channels last where there are convolutions and the network does not mind, as `view` of their outputs would."""
    if not len(probe) or not any(_prefers_last(layer) for layer in made.modules()):
        return made
    changed = ChannelsLast(made)
    with frozen(changed), torch.no_grad():
        try:
            changed(probe[:1].to(made.mean.device))
        except RuntimeError:
            return made
    return changed


def _prefers_last(layer: nn.Module) -> bool:
    return isinstance(layer, PackedNetwork) or (isinstance(layer, PackedConv2d) and not layer.words)


def facts(checkpoint: Checkpoint, model: nn.Module, found: Twin, data: Dataset, *, alone: bool) -> dict[str, Any]:
    """The `packed` entry of a report.

    mode, layers, native, isa; max_error (of the largest logit, first images); agreement and clean (answers on all
    images, against the dense model's and against the labels); latency {"dense" or mode: {batch: ms}} in turns;
    fastest {batch: "dense" or mode}; latency_ms (one image, the fastest of the packed). `alone`: no other mode is
    timed; else "accurate" is too, "int8" never: it changes answers.
    """
    device = device_of(model, torch.device("cpu"))
    x = data.batch(torch.arange(min(IMAGES, len(data))))[0].to(device)
    with frozen(model), frozen(found.model), torch.no_grad():
        expected, seen = model(x), found.model(x)
    runs: dict[str, nn.Module] = {"dense": model, found.mode: found.model}
    if not alone and found.mode == "exact" and isinstance(model, Classifier):
        other = twin(checkpoint, model, x, "accurate")
        runs |= {other.mode: other.model} if other else {}
    latency: dict[str, dict[str, float]] = {name: {} for name in runs}
    for batch in BATCHES:
        times = in_turns(runs, data.batch(torch.arange(batch) % len(data))[0])
        for name, ms in times.items():
            latency[name][str(batch)] = round(ms, 4)
    answers, theirs = predictions(found.model, data), predictions(model, data)
    kernels = status()
    return {
        "layers": found.layers,
        "mode": found.mode,
        "native": kernels["native"],
        "isa": kernels["isa"],
        "max_error": float((expected - seen).abs().max() / expected.abs().max().clamp(min=1e-12)),
        "agreement": Proportion(int((answers == theirs).sum()), len(data)).to_dict(),
        "clean": Proportion(int((answers == data.labels).sum()), len(data)).to_dict(),
        "latency": latency,
        "fastest": {str(n): min(runs, key=lambda name, n=n: latency[name][str(n)]) for n in BATCHES},
        "latency_ms": min(times["1"] for name, times in latency.items() if name != "dense"),
    }
