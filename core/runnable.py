"""Files that are run as they are: ONNX models, TorchScript programs, pickled modules. Their weights are not looked at.

An ONNX graph is data: onnxruntime runs its own operators. A TorchScript archive holds code, which its interpreter would
run with every operator that torch registers, those that read and write files too; so it is run only where the user says
that he trusts it. A pickled module is code altogether.
"""

import io
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from . import pickles, sniff
from .checkpoint import Checkpoint, Source, digest_of, load, located, opened
from .errors import ArchitectureError, InputFileError, OptionError, RobustqError, UnsafeFileError


@dataclass(frozen=True)
class Runnable(Checkpoint):
    """A file that answers for itself; it has no weights that could be looked at."""

    net: nn.Module = field(default_factory=nn.Identity, repr=False)


def load_any(source: str | Path | BinaryIO, *, trust_pickle: bool = False, trust_program: bool = False) -> Checkpoint:
    """A checkpoint, or a Runnable for ONNX, TorchScript and, where pickles are trusted, pickled modules.

    Raises UnsafeFileError for a TorchScript program that is not trusted, and what `checkpoint.load` raises.
    """
    with opened(source) as (stream, place), located(place):
        kind = sniff.sniff(stream)
        digest, size = digest_of(stream)
        found = Source(place, kind, digest, size)
        net: Any = None
        if kind == "onnx":
            net = OnnxNet(stream.read())
        elif kind == "torchscript":
            net = _torchscript(stream, trust_program)
        elif trust_pickle and kind in ("torch", "torch-legacy", "pickle"):
            net = _pickled(stream, kind)
        if net is not None:
            return Runnable({}, {}, {}, {}, replace(found, notes=("run as it is",)), net)
        stream.seek(0)
        if not isinstance(source, (str, Path)):
            return load(stream, trust_pickle=trust_pickle)
    return load(source, trust_pickle=trust_pickle)


class OnnxNet(nn.Module):
    """x (n, c, h, w) float32 -> the first output of an ONNX model (n, classes), by onnxruntime; no gradient."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise OptionError(
                "An ONNX model is run by onnxruntime, which is not installed.", 'Run: pip install "robustq[onnx]".'
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # its messages go to standard error, past ours
        try:
            self.session: Any = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but this one
            raise InputFileError(
                f"onnxruntime cannot load the model: {str(error).splitlines()[0]}",
                "Models with external data and operators of other domains are not run.",
            ) from None
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            listed = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise ArchitectureError(
                f"the ONNX model takes {listed}.", "A classifier takes one float32 tensor of images."
            )
        self.input = inputs[0].name
        self.output = self.session.get_outputs()[0].name
        fixed = inputs[0].shape[0] if inputs[0].shape else None
        self.fixed = fixed if isinstance(fixed, int) and fixed > 0 else None  # images at a time, where the file says

    def forward(self, x: Tensor) -> Tensor:
        values = np.ascontiguousarray(x.detach().cpu().numpy(), np.float32)
        size = self.fixed or max(1, len(values))
        answers = [self._run(values[i : i + size], size) for i in range(0, len(values), size)]
        return torch.from_numpy(np.concatenate(answers)).to(x.device)

    def _run(self, values: np.ndarray, size: int) -> np.ndarray:
        n = len(values)
        if self.fixed and n < size:
            values = np.concatenate([values, np.repeat(values[-1:], size - n, 0)])
        try:
            return self.session.run([self.output], {self.input: values})[0][:n]
        except Exception as error:  # as above; a RuntimeError is what whoever calls a model expects
            raise RuntimeError(str(error).splitlines()[0]) from None


class Foreign(nn.Module):
    """A program that is called and otherwise left alone: its modules and parameters are not this network's."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self._run = [run]

    def forward(self, x: Tensor) -> Tensor:
        return self._run[0](x)


def _torchscript(stream: BinaryIO, trust: bool) -> nn.Module:
    if not trust:
        raise UnsafeFileError(
            "this is a TorchScript program: running it runs code of the file, which can reach every operator of torch.",
            "If you trust where it comes from, say so: --trust-program. Its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt').",
        )
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit as a whole
            program = torch.jit.load(io.BytesIO(stream.read()), map_location="cpu")
    except RuntimeError as error:
        raise InputFileError(f"the TorchScript program cannot be loaded: {str(error).splitlines()[0]}") from None
    program.eval()
    return Foreign(program)


def _pickled(stream: BinaryIO, kind: str) -> nn.Module | None:
    """The module in a pickle that is trusted; None where it holds weights."""
    stream.seek(0)
    try:
        found = pickles.load_plain(stream, trust=True) if kind == "pickle" else pickles.load(stream, trust=True)
    except RobustqError:
        found = None  # reading it as a checkpoint says what is wrong
    stream.seek(0)
    return found.eval() if isinstance(found, nn.Module) else None
