"""Files that run as they are: ONNX, TorchScript, pickled modules; what is refused; gradients lent by the parent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core.architecture import build
from robustq.core.checkpoint import load
from robustq.core.comparison import evaluate
from robustq.core.errors import ArchitectureError, InputFileError, UnsafeFileError
from robustq.core.exporters.onnx import Onnx
from robustq.core.recipe import Recipe
from robustq.core.runnable import OnnxNet, Runnable, load_any
from robustq.core.scrutiny import Scrutiny
from robustq.core.surrogate import Surrogate, has_gradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning"),
]
X = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def recipe(data: str, attack: str = "pgd") -> Recipe:
    options = {"pgd": {"steps": 5}, "compressed": {"steps": 5, "queries": 5}, "quick": {"steps": 5}}[attack]
    return Recipe.from_dict({"data": {"name": data}, "attack": [{"name": attack, "eps": 0.1, **options}]})


@pytest.fixture(scope="module")
def onnx_file(lenet: Path) -> Path:
    pytest.importorskip("onnxruntime")
    path = lenet.with_name("small.onnx")
    path.write_bytes(Onnx(input=(1, 12, 12)).encode(load(lenet), build(load(lenet)))[0])
    return path


@pytest.fixture(scope="module")
def script(lenet: Path) -> Path:
    path = lenet.with_name("small.torchscript")
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(build(load(lenet)), X), path)
    return path


def test_onnx_answers_as_the_network(lenet: Path, onnx_file: Path) -> None:
    found = load_any(onnx_file)
    assert isinstance(found, Runnable)
    with torch.no_grad():
        assert torch.allclose(found.net(X), build(load(lenet))(X), atol=1e-5)
    assert not has_gradient(found.net, X)


def test_onnx_of_a_fixed_batch_is_filled_up(lenet: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "fixed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    x = torch.rand(5, 1, 2, 2)
    assert torch.equal(OnnxNet(model.SerializeToString())(x), x.flatten(1))


def test_a_program_runs_only_where_it_is_trusted(lenet: Path, script: Path, quadrants: str) -> None:
    with pytest.raises(UnsafeFileError, match="--trust-program"):
        evaluate([script], recipe(quadrants))
    entry = evaluate([script], recipe(quadrants), scrutiny=Scrutiny(trust_program=True)).content["models"][0]
    plain = evaluate([lenet], recipe(quadrants)).content["models"][0]
    assert entry["clean"] == plain["clean"]
    assert entry["gradient"] == "autograd"
    assert entry["worst_case"] == plain["worst_case"]


def test_without_a_parent_nothing_lends_a_gradient(onnx_file: Path, quadrants: str) -> None:
    entry = evaluate([onnx_file], recipe(quadrants, "compressed")).content["models"][0]
    assert entry["gradient"] == "none"
    assert statuses(entry)["RQ001"] == "fail"
    assert entry["bytes"] == onnx_file.stat().st_size
    assert entry["bits_per_weight"] is None


def test_the_parent_lends_its_gradient(lenet: Path, onnx_file: Path, quadrants: str) -> None:
    known = evaluate([onnx_file], recipe(quadrants), scrutiny=Scrutiny(parent=lenet)).content["models"][0]
    alone = evaluate([onnx_file], recipe(quadrants)).content["models"][0]
    plain = evaluate([lenet], recipe(quadrants)).content["models"][0]
    assert known["gradient"] == "surrogate"
    assert statuses(known)["RQ001"] == "fail"
    assert statuses(known)["RQ012"] == "pass"
    assert known["worst_case"] == plain["worst_case"]
    assert alone["worst_case"]["value"] >= known["worst_case"]["value"]


def test_a_pickled_integer_module_is_a_target(lenet: Path, quadrants: str, tmp_path: Path) -> None:
    path = tmp_path / "int8.pt"
    net = build(load(lenet))
    small = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    torch.save(small, path)
    with pytest.raises(UnsafeFileError):
        evaluate([path], recipe(quadrants))
    report = evaluate([path], recipe(quadrants, "quick"), trust_pickle=True, scrutiny=Scrutiny(parent=lenet))
    entry = report.content["models"][0]
    assert entry["gradient"] == "surrogate"
    assert list(entry["details"]["quick"]["survivors"]) == ["replay", "apgd-ce", "apgd-t"]
    weights = evaluate([lenet], recipe(quadrants), trust_pickle=True).content["models"][0]
    assert weights["gradient"] == "autograd"


def test_what_cannot_be_run_is_said(tmp_path: Path, script: Path) -> None:
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(100))
    with pytest.raises(InputFileError, match=r"broken\.onnx: onnxruntime cannot load"):
        load_any(broken)
    cut = tmp_path / "cut.torchscript"
    cut.write_bytes(script.read_bytes()[:-200])
    with pytest.raises(InputFileError, match=r"cut\.torchscript"):
        load_any(cut, trust_program=True)


def test_a_surrogate_is_the_model_forwards_and_the_parent_backwards() -> None:
    torch.manual_seed(0)
    parent = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    model = nn.Sequential(parent, nn.Hardtanh(-0.1, 0.1))
    both = Surrogate(nn.Sequential(Detached(), model), parent).eval()
    assert not has_gradient(both.model, X)
    assert has_gradient(both, X)
    x = X.clone().requires_grad_()
    logits = both(x)
    assert torch.equal(logits, model(X))
    weights = torch.rand(5, 3)
    found = torch.autograd.grad((logits * weights).sum(), x)[0]
    assert torch.equal(found, torch.autograd.grad((parent(x) * weights).sum(), x)[0])
    with pytest.raises(ArchitectureError, match="3 classes, the model with 2"):
        Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(144, 2)), parent)(x)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def statuses(entry: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["status"] for check in entry["checks"]}
