"""Whole networks to ONNX: the same logits, small files, honest stamps, and refusals that say what to do."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.architecture import Classifier
from robustq.core.checkpoint import Checkpoint
from robustq.core.errors import ArchitectureError, OptionError, OutputError, VerificationError
from robustq.core.exporters.exporter import Rendered
from robustq.core.exporters.onnx import Onnx
from robustq.core.exporters.onnx_check import relative_error
from robustq.core.packed import Half, Packed, Quantized, half_float
from robustq.core.quantizers import projection

BUILT_IN = [
    ("lenet", {"width": 3}, (1, 28, 28)),
    ("resnet", {"depth": 8, "width": 4, "shortcut": "A"}, (3, 16, 16)),
    ("resnet", {"depth": 8, "width": 4, "shortcut": "B", "stem_stride": 2, "channels": 1}, (1, 28, 28)),
    ("enresnet", {"depth": 8, "width": 4, "members": 2, "noise": 0}, (3, 16, 16)),
]


class Tiny(nn.Module):
    """Five outputs: not a multiple of four, where some runtimes read INT2 wrongly."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.bn(self.conv(x)).relu().flatten(1))


def trained(net: nn.Module) -> nn.Module:
    """Fresh weights with batch statistics that are not 0 and 1."""
    draws = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=draws) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=draws) + 0.5)
    return net.eval()


def compressed(net: nn.Module, bits: int, group: str | int = "channel") -> tuple[Checkpoint, Classifier]:
    """All convolution and linear weights at `bits`, in the checkpoint and in the classifier."""
    weights = dict(net.state_dict())
    packed: dict[str, Packed] = {
        n: projection.quantize(w, bits, group) for n, w in weights.items() if w.dim() > 1 and w.is_floating_point()
    }
    checkpoint = Checkpoint({n: w for n, w in weights.items() if n not in packed}, packed, {}, {})
    net.load_state_dict(checkpoint.dense())
    return checkpoint, Classifier(net, [0.3], [0.5]).eval()


def tiny(bits: int = 2, group: str | int = "channel") -> tuple[Checkpoint, Classifier]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return compressed(trained(Tiny()), bits, group)


SMALL = Onnx(input=(2, 6, 6))


@pytest.fixture(scope="module")
def ternary() -> tuple[Checkpoint, Classifier, Rendered]:
    """The small network at two bits, exported once: tracing takes a second."""
    checkpoint, classifier = tiny()
    return checkpoint, classifier, SMALL.render(checkpoint, classifier)


def run(data: bytes, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x.numpy()})[0])


@pytest.mark.parametrize(("name", "args", "shape"), BUILT_IN)
def test_built_in_networks_give_the_same_logits(name: str, args: dict[str, Any], shape: tuple[int, ...]) -> None:
    checkpoint, classifier = compressed(trained(registry.create(name, args, "model").build()), 2)
    made = Onnx(input=shape).render(checkpoint, classifier)
    assert made.max_error is not None
    assert made.max_error <= 1e-5
    # Every compressed tensor is low-bit in the file, none fell back to floats.
    assert made.facts["encodings"] == {f"net.{n}": "int2" for n in checkpoint.packed}
    assert stamp(made.data) == (made.facts["opset"], made.facts["ir_version"]) == (25, 13)


def stamp(data: bytes) -> tuple[int, int]:
    model = onnx.load_from_string(data)
    return model.opset_import[0].version, model.ir_version


def test_base3_runs_at_the_oldest_opset() -> None:
    made = replace(SMALL, style="base3").render(*tiny())
    assert stamp(made.data) == (18, 8)
    assert set(made.facts["encodings"].values()) == {"base3"}


def test_low_bits_make_a_small_file_and_the_size_of_an_image_is_found_by_trial() -> None:
    checkpoint, classifier = compressed(trained(registry.create("lenet", {}, "model").build()), 2)
    made = Onnx().render(checkpoint, classifier)
    assert made.facts["input_shape"] == [1, 28, 28]
    weights = sum(int(np.prod(p.shape)) for p in checkpoint.packed.values())
    assert len(made.data) < weights / 4 + 6000


def test_batch_norm_keeps_its_node(ternary: tuple[Checkpoint, Classifier, Rendered]) -> None:
    graph = onnx.load_from_string(ternary[2].data).graph
    assert {"BatchNormalization", "Conv", "Cast", "Mul", "Gemm"} <= {n.op_type for n in graph.node}
    assert [v.name for v in graph.input] == ["input"]


def test_any_batch_size_runs(ternary: tuple[Checkpoint, Classifier, Rendered]) -> None:
    _, classifier, made = ternary
    for batch in (1, 3, 10):
        x = torch.rand(batch, 2, 6, 6, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            np.testing.assert_allclose(run(made.data, x), classifier(x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_file_is_deterministic_and_names_no_place_of_this_machine(
    ternary: tuple[Checkpoint, Classifier, Rendered],
) -> None:
    checkpoint, classifier, made = ternary
    assert SMALL.encode(checkpoint, classifier)[0] == made.data
    for place in (str(Path.home()), str(Path(__file__).parent), "site-packages", "File "):
        assert place.encode() not in made.data


def test_first_and_last_in_half_precision() -> None:
    checkpoint, classifier = tiny()
    kept = Half(half_float(checkpoint.packed["fc.weight"].dense()))
    checkpoint = replace(checkpoint, packed={**checkpoint.packed, "fc.weight": kept})
    classifier.net.load_state_dict(checkpoint.dense())
    assert SMALL.render(checkpoint, classifier).facts["encodings"]["net.fc.weight"] == "float16"


def test_a_module_of_ones_own_needs_no_classifier() -> None:
    checkpoint, classifier = tiny(4, 16)
    made = SMALL.render(checkpoint, classifier.net)
    assert made.facts["encodings"] == {"conv.weight": "int4", "fc.weight": "int4"}
    assert stamp(made.data) == (21, 10)


def test_the_recorded_size_of_an_image_is_used_and_verification_can_be_left_out() -> None:
    checkpoint, classifier = tiny()
    checkpoint = replace(checkpoint, meta={"data": {"shape": [2, 6, 6]}})
    made = Onnx(verify_file=False).render(checkpoint, classifier)
    assert made.facts["input_shape"] == [2, 6, 6]
    assert made.max_error is None


def test_a_missing_class_is_refused_with_the_flag_and_what_works() -> None:
    checkpoint, _ = tiny()
    with pytest.raises(ArchitectureError, match=r"--arch NAME(.|\n)*--to safetensors,state-dict"):
        SMALL.render(checkpoint, None)


def test_noise_is_refused() -> None:
    args = {"depth": 8, "width": 2, "noise": 0.5}
    checkpoint, classifier = compressed(trained(registry.create("enresnet", args, "model").build()), 2)
    with pytest.raises(ArchitectureError, match=r"draws noise(.|\n)*noise_off=true"):
        Onnx(input=(3, 16, 16)).render(checkpoint, classifier)


def test_a_size_the_network_does_not_take_is_refused() -> None:
    checkpoint, classifier = tiny()
    with pytest.raises(ArchitectureError, match=r"\[2, 9, 9\](.|\n)*channels,height,width"):
        replace(SMALL, input=(2, 9, 9)).render(checkpoint, classifier)
    with pytest.raises(OptionError, match="input=3,32,32"):
        Onnx(input=(32, 32))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1)


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    empty = Checkpoint({}, {}, {}, {})
    with pytest.raises(ArchitectureError, match=r"cannot export(.|\n)*--to safetensors,state-dict"):
        Onnx(input=(1, 2, 2)).render(empty, Branching())


def test_a_wrong_weight_is_found(ternary: tuple[Checkpoint, Classifier, Rendered]) -> None:
    checkpoint, classifier, made = ternary
    model = onnx.load_from_string(made.data)
    codes = next(t for t in model.graph.initializer if t.name == "net.fc.weight::codes")
    codes.raw_data = bytes([codes.raw_data[0] ^ 1]) + codes.raw_data[1:]
    with pytest.raises(VerificationError, match=r"net\.fc\.weight decodes to other values"):
        SMALL.verify(model.SerializeToString(), checkpoint, classifier)


@pytest.mark.parametrize("data", [b"", b"no protobuf"])
def test_a_broken_file_is_found(data: bytes, ternary: tuple[Checkpoint, Classifier, Rendered]) -> None:
    with pytest.raises(VerificationError, match="refuses the file"):
        SMALL.verify(data, *ternary[:2])


def test_wrong_logits_are_found_and_nothing_is_written(
    tmp_path: Path, ternary: tuple[Checkpoint, Classifier, Rendered], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, classifier, made = ternary
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an older file")
    monkeypatch.setattr(Onnx, "encode", lambda *_: (made.data, made.facts))
    other = Classifier(classifier.net, [0.4], [0.5]).eval()
    with pytest.raises(VerificationError, match="differ from torch's by") as caught:
        SMALL.write(checkpoint, other, path, force=True)
    assert caught.value.exit_code == 5
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"an older file"
    assert SMALL.write(checkpoint, classifier, path, force=True) == [path]
    assert path.read_bytes() == made.data


def test_write_refuses_a_file_that_exists(tmp_path: Path) -> None:
    checkpoint, classifier = tiny()
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(OutputError, match="exists already"):
        SMALL.write(checkpoint, classifier, path)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_library_is_named_with_its_remedy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, classifier = tiny()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(OptionError, match=rf'{missing} is not installed(.|\n)*pip install "robustq\[onnx\]"'):
        SMALL.render(checkpoint, classifier)


def test_relative_error() -> None:
    expected = np.array([[1.0, -4.0]])
    assert relative_error(np.array([[1.0, -4.2]]), expected) == pytest.approx(0.05)
    assert relative_error(np.array([[np.nan, -4.0]]), expected) == float("inf")
    assert relative_error(np.zeros((1, 3)), expected) == float("inf")


def test_tied_weights_are_low_bit_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.flatten(1)).relu())

    net = Tied().eval()
    packed = projection.quantize(net.first.weight, 2)
    assert isinstance(packed, Quantized)
    biases = {n: w for n, w in net.state_dict().items() if n.endswith("bias")}
    checkpoint = Checkpoint(biases, {"first.weight": packed}, {"second.weight": "first.weight"}, {})
    net.load_state_dict(checkpoint.dense())
    made = Onnx(input=(1, 2, 2)).render(checkpoint, net)
    assert "int2" in made.facts["encodings"].values()
    assert not any(list(t.dims) == [4, 4] and t.data_type == onnx.TensorProto.FLOAT for t in initializers(made.data))


def initializers(data: bytes) -> list[onnx.TensorProto]:
    return list(onnx.load_from_string(data).graph.initializer)
