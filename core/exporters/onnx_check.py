"""An ONNX file against the network it came from: the checker, the weights bit by bit, the logits in onnxruntime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from ..errors import VerificationError
from ..packed import Packed
from .onnx_graph import INPUT

BATCHES = (1, 7)
REPORT = "This is a fault of robustq, torch.onnx or onnxruntime: please report it."


def compare(
    runtime: Any,
    data: bytes,
    classifier: nn.Module,
    packed: Mapping[str, Packed],
    shape: tuple[int, ...],
    tolerance: float,
) -> float:
    """max |ONNX - torch| / max |torch| over the logits of random images in [0, 1]; VerificationError if too large.

    runtime  the onnxruntime module
    packed   name in the graph -> the compressed tensor whose dense weight the file has to give, bit by bit
    """
    _compare_weights(runtime, _parse(data), packed, shape)
    session = _session(runtime, data)
    draws = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch in BATCHES:
        x = torch.rand(batch, *shape, generator=draws)
        with torch.no_grad():
            expected = classifier(x).numpy()
        found = session.run(None, {INPUT: x.numpy()})[0]
        worst = max(worst, relative_error(found, expected))
    if not worst <= tolerance:
        raise VerificationError(
            f"onnxruntime {runtime.__version__} gives logits that differ from torch's by {worst:.2g} of the largest"
            f" logit on random images; {tolerance:g} is allowed. No file was written.",
            "If the network is deep and the difference small, raise the option tolerance; else please report it.",
        )
    return worst


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|; infinite where the shapes differ or a value is not finite."""
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    largest = float(np.abs(expected).max(initial=0.0))
    error = float(np.abs(found - expected).max(initial=0.0))
    return error / largest if largest else error


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf's, the checker's and shape inference's have no common class
        raise VerificationError(f"onnx.checker refuses the file: {str(error).strip()}", REPORT) from error
    return model


def _compare_weights(
    runtime: Any, model: onnx.ModelProto, packed: Mapping[str, Packed], shape: tuple[int, ...]
) -> None:
    """Ask a copy of the graph for its decoded weights too."""
    made = {name for node in model.graph.node for name in node.output} | {t.name for t in model.graph.initializer}
    weights = {name: p.dense() for name, p in packed.items() if name in made}
    if not weights:
        return
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(w.shape)) for name, w in weights.items()
    )
    session = _session(runtime, probe.SerializeToString())
    found = session.run(list(weights), {INPUT: np.zeros((1, *shape), np.float32)})
    for (name, weight), value in zip(weights.items(), found, strict=True):
        if value.shape != tuple(weight.shape) or not np.array_equal(value, weight.numpy()):
            raise VerificationError(f"{name} decodes to other values than it has in the compressed model.", REPORT)


def _session(runtime: Any, data: bytes) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no public common class
        raise VerificationError(
            f"onnxruntime {runtime.__version__} does not load the file: {str(error).strip()}",
            "An older onnxruntime may not know the low-bit types: update it, or use the option style=base3 or dense.",
        ) from error
