"""What the kernels are measured against: other libraries' linear layers on the same weight, as calls.

| name                | what                                                                                      |
|---------------------|-------------------------------------------------------------------------------------------|
| torch_fp32          | torch.nn.functional.linear, dense float32                                                 |
| torch_csr           | sparse CSR with 32-bit indices; only where at least half of the weights are zero          |
| torch_dynamic_int8  | torch.ao.nn.quantized.dynamic.Linear: 8-bit weights (a row's scale), 8-bit activations     |
| ort_fp32            | onnxruntime MatMul                                                                        |
| ort_2bit, ort_4bit  | onnxruntime MatMulNBits, blocks of 128, accuracy_level 4: int8 activations                |

A peer that is not installed, or refuses the shape, is left out, with the reason.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Run = Callable[[], Tensor]
BLOCK = 128  # weights of a row that share a scale in MatMulNBits


@dataclass(frozen=True)
class Layer:
    """x (batch, in) and a weight = codes * scale in every form that a candidate needs; scale is (out, groups)."""

    x: Tensor
    codes: Tensor
    scale: Tensor
    bits: int

    @property
    def weight(self) -> Tensor:
        width = -(-self.codes.shape[1] // self.scale.shape[1])
        return self.codes * self.scale.repeat_interleave(width, 1)[:, : self.codes.shape[1]]


def peers(layer: Layer, zeros: float) -> tuple[dict[str, Run], list[str]]:
    """Name -> call for each peer that runs here, and why the others do not."""
    runs: dict[str, Run] = {}
    absent: list[str] = []
    makers: dict[str, Callable[[Layer], Run]] = {
        "torch_fp32": torch_fp32,
        "torch_dynamic_int8": torch_dynamic_int8,
        "ort_fp32": ort_fp32,
        f"ort_{layer.bits}bit": ort_nbits,
    }
    if zeros >= 0.5:
        makers["torch_csr"] = torch_csr
    for name, make in makers.items():
        try:
            runs[name] = make(layer)
            runs[name]()
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
            runs.pop(name, None)
            absent.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return runs, absent


def torch_fp32(layer: Layer) -> Run:
    weight, x = layer.weight, layer.x
    return lambda: F.linear(x, weight)


def torch_csr(layer: Layer) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "in beta state"
        csr = layer.weight.to_sparse_csr()
        csr = torch.sparse_csr_tensor(csr.crow_indices().int(), csr.col_indices().int(), csr.values(), csr.shape)
    if len(layer.x) == 1:
        vector = layer.x[0]
        return lambda: torch.mv(csr, vector)[None]
    columns = layer.x.T.contiguous()
    return lambda: torch.mm(csr, columns).T


def torch_dynamic_int8(layer: Layer) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still the fastest int8 that torch has
        from torch.ao.nn.quantized.dynamic import Linear

        weight = layer.weight
        step = weight.abs().amax(1).double().clamp(min=1e-12) / 127
        made = Linear(weight.shape[1], weight.shape[0], bias_=False)
        zero = torch.zeros(len(weight), dtype=torch.long)
        made.set_weight_bias(torch.quantize_per_channel(weight, step, zero, 0, torch.qint8), None)
    x = layer.x
    return lambda: made(x)


def ort_fp32(layer: Layer) -> Run:
    onnx = needed("onnx")
    weight = onnx.numpy_helper.from_array(layer.weight.T.contiguous().numpy(), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    return session(node, [weight], layer)


def ort_nbits(layer: Layer) -> Run:
    """Symmetric: a code is stored plus 2^(bits - 1), which is what MatMulNBits takes off when it has no zero points."""
    onnx = needed("onnx")
    out, columns = layer.codes.shape
    if columns % BLOCK:
        raise ValueError(f"{columns} columns are no multiple of {BLOCK}")
    stored = (layer.codes + 2 ** (layer.bits - 1)).to(torch.uint8)
    fields = stored.view(out, columns // BLOCK, -1, 8 // layer.bits)
    shifts = layer.bits * torch.arange(8 // layer.bits)
    packed = (fields.int() << shifts).sum(-1).to(torch.uint8)
    groups = layer.scale.shape[1]
    scale = layer.scale.repeat_interleave(columns // BLOCK // groups, 1).contiguous()
    tensors = [onnx.numpy_helper.from_array(packed.numpy(), "w"), onnx.numpy_helper.from_array(scale.numpy(), "s")]
    options = {"K": columns, "N": out, "bits": layer.bits, "block_size": BLOCK, "accuracy_level": 4}
    node = onnx.helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **options)
    return session(node, tensors, layer)


def needed(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"{name} is not installed")
    return importlib.import_module(name)


def session(node: Any, tensors: list[Any], layer: Layer) -> Run:
    """A one-thread onnxruntime session of one node."""
    onnx, runtime = needed("onnx"), needed("onnxruntime")
    made = onnx.helper.make_tensor_value_info
    x = made("x", onnx.TensorProto.FLOAT, list(layer.x.shape))
    y = made("y", onnx.TensorProto.FLOAT, [len(layer.x), len(layer.codes)])
    graph = onnx.helper.make_graph([node], "layer", [x], [y], tensors)
    versions = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=versions, ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    opened = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {"x": np.ascontiguousarray(layer.x.numpy())}
    return lambda: torch.from_numpy(opened.run(None, fed)[0])
