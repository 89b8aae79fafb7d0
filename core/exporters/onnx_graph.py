"""A classifier as an ONNX graph whose compressed weights are still open, and the closing of them."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from ..errors import ArchitectureError
from ..packed import Packed
from .onnx_decode import IR, Decoder

INPUT, OUTPUT = "input", "logits"


def trace(classifier: nn.Module, shape: tuple[int, ...], opset: int, open_names: set[str]) -> onnx.ModelProto:
    """The graph of x (batch, *shape) -> logits, batch free; parameters in `open_names` become inputs of the graph.

    The classifier is on the CPU, in eval mode.
    Batch normalisation keeps its own nodes: folded into a convolution it would turn low-bit weights into floats.
    Constants are folded, but nothing that depends on an open weight is.
    """
    from onnxscript import optimizer

    program = _export(classifier, shape, opset)
    graph = program.model.graph
    for name in [n for n in graph.initializers if n in open_names]:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    if model.opset_import[0].version != opset:
        raise ArchitectureError(
            f"This network uses operators that opset {opset} does not have"
            f" (the exporter gave opset {model.opset_import[0].version}).",
            "Use the exporter's option style=base3 or style=dense, which need an older opset.",
        )
    _strip(model)
    if not _nested(model.graph):
        _drop_zero_bias(model.graph)
    return model


def close(model: onnx.ModelProto, packed: Mapping[str, Packed], style: str, version: str) -> dict[str, str]:
    """Put the decoding of every open weight at the head of the graph, and stamp the file; returns name -> encoding."""
    graph, kinds = model.graph, {}
    for value in [v for v in graph.input if v.name in packed]:
        graph.input.remove(value)
        decoder = Decoder(value.name)
        kinds[value.name] = decoder.add(packed[value.name], style)
        graph.initializer.extend(decoder.initializers)
        for place, node in enumerate(decoder.nodes):
            graph.node.insert(place, node)
    if not _nested(graph):
        _share_constants(graph, keep=set(packed))
    model.ir_version = IR[model.opset_import[0].version]
    model.producer_name, model.producer_version = "robustq", version
    return kinds


def _export(classifier: nn.Module, shape: tuple[int, ...], opset: int) -> Any:
    example = torch.zeros(2, *shape)
    try:
        with _quiet():
            program = torch.onnx.export(
                classifier,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                dynamo=True,
                optimize=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ArchitectureError(
            f"torch.onnx cannot export this network at input {list(shape)}: {reason}",
            "Without a graph, `--to safetensors,state-dict` works.",
        ) from error
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence two things that torch's exporter says about itself: a deprecated call, and torchvision's absence."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes beside the graph: source lines and paths of the machine, and inferred types."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for node in graph.node:
        node.ClearField("name")  # optional, and as long as a small layer's scales
    graph.ClearField("value_info")


def _nested(graph: onnx.GraphProto) -> bool:
    """Whether a node holds a graph of its own (If, Loop), which may use names of this one: then nothing is tidied."""
    return any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)


def _drop_zero_bias(graph: onnx.GraphProto) -> None:
    """Convolutions without a bias are exported with one of zeros: leave it out again."""
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:
        bias = tensors.get(node.input[2]) if node.op_type == "Conv" and len(node.input) == 3 else None
        if bias is not None and not np.any(numpy_helper.to_array(bias)):
            del node.input[2]
    used = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _share_constants(graph: onnx.GraphProto, keep: set[str]) -> None:
    """Small initializers of equal content (shapes, axes, powers) become one."""
    first: dict[bytes, str] = {}
    renamed = {}
    for tensor in [t for t in graph.initializer if len(t.raw_data) <= 1024 and t.name not in keep]:
        nameless = onnx.TensorProto()
        nameless.CopyFrom(tensor)
        nameless.ClearField("name")
        holder = first.setdefault(nameless.SerializeToString(), tensor.name)
        if holder != tensor.name:
            renamed[tensor.name] = holder
            graph.initializer.remove(tensor)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
