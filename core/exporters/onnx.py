"""ONNX with real low-bit weights, run and compared before it is written."""

import copy
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..architecture import Classifier
from ..errors import ArchitectureError, OptionError
from ..image_shape import image_shape
from ..noise import noises
from ..option import option
from .exporter import Exporter
from .optional import require

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..packed import Packed

RUN = "An ONNX file is run in onnxruntime before it is written (option verify_file)"
_GIVE_SHAPE = "Give the shape of an image with the exporter's option input: channels,height,width."


@dataclass(frozen=True, kw_only=True)
class Onnx(Exporter):
    """The network with its normalisation inside: images (batch, c, h, w) in [0, 1] -> logits (batch, classes)."""

    SOURCE = "ONNX"
    suffix: ClassVar[str] = ".onnx"
    needs_class: ClassVar[bool] = True
    style: str = option(
        "cast",
        "low-bit integers (INT2 needs opset 25, INT4 opset 21) times a scale; `base3` writes ternary weights as five a"
        " byte for any runtime of opset 18; `dense` writes floats",
        choices=("cast", "base3", "dense"),
    )
    input: tuple[int, ...] = option((), "channels, height and width of an image; found by trial where not given")
    tolerance: float = option(1e-5, "largest logit error allowed", unit="of the largest logit", low=0)
    noise_off: bool = option(False, "export a network that draws noise without it; with it, it is refused")
    verify_file: bool = option(True, "run the file in onnxruntime and compare it with torch before it is written")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input and (len(self.input) != 3 or min(self.input) < 1):
            raise OptionError(f"Onnx: input is {list(self.input)}.", "Write channels,height,width: input=3,32,32.")

    def encode(self, checkpoint: "Checkpoint", classifier: nn.Module | None) -> tuple[bytes, dict[str, Any]]:
        net = self._ready(checkpoint, classifier)
        require("onnxscript", "ONNX export goes through onnxscript")
        if self.verify_file:
            require("onnxruntime", RUN)  # said before the long work
        from . import onnx_decode, onnx_graph

        shape = self._shape(checkpoint, net)
        _require_determinism(net, shape)
        packed = _named(checkpoint, net)
        opset = max((onnx_decode.opset(p, self.style) for p in packed.values()), default=onnx_decode.BASE_OPSET)
        model = onnx_graph.trace(net, shape, opset, set(packed))
        kinds = onnx_graph.close(model, packed, self.style, version("robustq"))
        facts = {"opset": opset, "ir_version": model.ir_version, "input_shape": list(shape), "style": self.style}
        return model.SerializeToString(deterministic=True), {**facts, "encodings": kinds}

    def verify(self, data: bytes, checkpoint: "Checkpoint", classifier: nn.Module | None) -> float | None:
        """max |ONNX - torch| / max |torch| over logits of random images; None without verification."""
        if not self.verify_file:
            return None
        runtime = require("onnxruntime", RUN)
        from .onnx_check import compare

        net = self._ready(checkpoint, classifier)
        return compare(runtime, data, net, _named(checkpoint, net), self._shape(checkpoint, net), self.tolerance)

    def _ready(self, checkpoint: "Checkpoint", classifier: nn.Module | None) -> nn.Module:
        net = _ready(checkpoint, classifier)
        for layer in noises(net) if self.noise_off else ():
            layer.silent = True
        return net

    def _shape(self, checkpoint: "Checkpoint", net: nn.Module) -> tuple[int, ...]:
        """(c, h, w): the option, else what the file records, else the first usual size that runs."""
        data = checkpoint.meta.get("data")
        recorded = tuple(data.get("shape") or ()) if isinstance(data, dict) else ()
        return image_shape(net, self.input or recorded, _GIVE_SHAPE)


def _ready(checkpoint: "Checkpoint", classifier: nn.Module | None) -> nn.Module:
    """A copy of the classifier on the CPU, in eval mode."""
    if classifier is None:
        raise ArchitectureError(
            f"{checkpoint.source.path}: ONNX needs the class of the network, not its weights alone.",
            "Name it: --arch NAME, file.py:factory or pkg.mod:factory. Without the class,"
            " `--to safetensors,state-dict` works.",
        )
    return copy.deepcopy(classifier).cpu().eval()


def _require_determinism(net: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        same = torch.equal(net(x), net(x))
    if not same:
        raise ArchitectureError(
            "The network draws noise when it predicts: two runs on one image differ, so no file can be verified.",
            "Give --option noise_off=true (the exporter's option) to export the network without it.",
        )


def _named(checkpoint: "Checkpoint", net: nn.Module) -> "dict[str, Packed]":
    """Compressed tensors under their names in the graph; a tied one under all of its names."""
    prefix = "net." if isinstance(net, Classifier) else ""
    tied = {alias: checkpoint.packed[name] for alias, name in checkpoint.aliases.items() if name in checkpoint.packed}
    return {prefix + name: packed for name, packed in {**checkpoint.packed, **tied}.items()}
