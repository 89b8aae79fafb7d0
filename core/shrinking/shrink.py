"""A model without its dead channels: smaller layers, the same answers, a file that loads by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import architecture, inserted, rng
from ..activation import QuantizedReLU
from ..checkpoint import Checkpoint, Source
from ..errors import NothingCompressedError, VerificationError
from ..image_shape import image_shape
from . import cutting, plan
from .flow import Flow
from .tracing import Traced

TOLERANCE = 1e-5  # of the largest logit
_IMAGES = 16


@dataclass(frozen=True)
class Shrunk:
    """The smaller model, and what became of its layers.

    facts  layers: [{"name", "before", "after"}] of the weights whose shape changed; weights: {"before", "after"}, all
           numbers of the model; stay: [{"channels", "why"}] zero channels that could not be removed; max_error: the
           largest difference of a logit on random images, as a share of the largest logit
    """

    checkpoint: Checkpoint
    facts: dict[str, Any]


def shrink(
    checkpoint: Checkpoint,
    *,
    arch: str | None = None,
    args: Mapping[str, Any] | None = None,
    mean: Any = None,
    std: Any = None,
    shape: Sequence[int] = (),
) -> Shrunk:
    """Remove every channel that is constant or not read, and fold what it contributed into the layers that stay.

    The class is found as by `architecture.build`; shape is (c, h, w) of an image, where the file does not record it and
    no usual size fits. Raises ArchitectureError where its forward pass cannot be followed,
    NothingCompressedError where no channel can go, VerificationError where the small model does not give the logits of
    the large one.
    """
    spec = architecture.resolve(checkpoint, arch, args)
    model = architecture.build(checkpoint, arch=arch, args=args, mean=mean, std=std)
    images = _images(model, checkpoint, shape)
    whole = cutting.whole(checkpoint) | dict.fromkeys(inserted.noisy(model.net), "it draws noise")
    flow = Flow(model.net, Traced(model.net, (images[:2] - model.mean) / model.std), whole)
    names = [reader.name for reader in flow.readers]
    weights = {writer.name: _weight(model.net, writer.name) for writer in flow.writers if writer.makes}
    made = plan.make(flow, weights, cutting.rounded(checkpoint, names))
    reasons = {**made.stay, **_untouched(model.net, flow)}
    stay = [{"channels": count, "why": why} for why, count in sorted(reasons.items())]
    if not made.removed:
        raise _nothing(stay)
    small = cutting.cut(checkpoint, flow, made)
    meta = {**small.meta, "arch": {"name": spec.name, "args": spec.options}, "normalization": model.normalization}
    small = replace(small, meta=meta, source=Source(checkpoint.source.path, "memory", "", 0, checkpoint.source.notes))
    error = _difference(model, architecture.build(small, arch=arch, args=args), images)
    numbers = {"before": _numbers(checkpoint), "after": _numbers(small)}
    facts = {"layers": _layers(checkpoint, small), "weights": numbers, "stay": stay, "max_error": error}
    return Shrunk(small, facts)


def _images(model: architecture.Classifier, checkpoint: Checkpoint, shape: Sequence[int]) -> Tensor:
    recorded = (checkpoint.meta.get("data") or {}).get("shape") or ()
    remedy = "Give the shape of an image: --method shrink:input=channels,height,width."
    return rng.uniform(("shrink",), torch.arange(_IMAGES), image_shape(model, tuple(shape or recorded), remedy))


def _untouched(net: nn.Module, flow: Flow) -> dict[str, int]:
    """Zero channels of layers that cannot be cut: why -> how many."""
    found: dict[str, int] = {}
    for name, label in flow.refused.items():
        weight = getattr(net.get_submodule(name), "weight", None)
        zero = int((weight == 0).flatten(1).all(1).sum()) if isinstance(weight, Tensor) and weight.ndim > 1 else 0
        if zero:
            found[f"they belong to {label}"] = zero
    return found


def _weight(net: nn.Module, name: str) -> Tensor:
    weight = net.get_submodule(name).weight
    assert isinstance(weight, Tensor)  # of a convolution or linear layer
    return weight.detach()


def _difference(large: nn.Module, small: nn.Module, images: Tensor) -> float:
    logits = []
    for model in (large, small):
        with torch.no_grad(), rng.seeded("shrink"):  # networks that draw noise draw the same
            logits.append(model.eval()(images).double())
    error = float((logits[0] - logits[1]).abs().max() / logits[0].abs().max().clamp_min(1e-30))
    if not error <= TOLERANCE:
        raise VerificationError(
            f"without its dead channels the network differs by {error:.2g} of the largest logit (limit {TOLERANCE:g}).",
            "Nothing was written. "
            + (
                "Its activations round, so that a difference in the last digit may become a whole step."
                if any(isinstance(part, QuantizedReLU) for part in large.modules())
                else "Please report the network."
            ),
        )
    return error


def _nothing(stay: Sequence[Mapping[str, Any]]) -> NothingCompressedError:
    if not stay:
        return NothingCompressedError(
            "no channel can be removed: in no layer are all weights of a channel zero.",
            "Prune channels first, for example with --method magnitude:granularity=channel,sparsity=0.5.",
        )
    reasons = "; ".join(f"{entry['channels']}, because {entry['why']}" for entry in stay)
    return NothingCompressedError(f"no channel can be removed; of those whose weights are zero stay: {reasons}.")


def _layers(before: Checkpoint, after: Checkpoint) -> list[dict[str, Any]]:
    old, new = before.dense(), after.dense()
    return [
        {"name": name, "before": list(w.shape), "after": list(new[name].shape)}
        for name, w in old.items()
        if w.ndim > 1 and w.shape != new[name].shape
    ]


def _numbers(checkpoint: Checkpoint) -> int:
    return sum(tensor.numel() for tensor in checkpoint.dense().values())
