"""Finding and building the class of a checkpoint, and every way it can fail."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustq.core import architecture
from robustq.core.checkpoint import Checkpoint, Source
from robustq.core.errors import ArchitectureError, OptionError, UnsafeFileError


def checkpoint(weights: dict[str, Tensor], **meta: object) -> Checkpoint:
    return Checkpoint(weights, {}, {}, dict(meta), Source("net.pt", "torch", "", 0, ()))


@pytest.fixture
def factory(tmp_path: Path) -> str:
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "def tiny(classes=3): return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))\n"
        "def broken(): raise RuntimeError('boom')\n"
        "def wrong(): return 7\n"
    )
    return str(path)


def test_normalisation_is_inside() -> None:
    x = torch.rand(2, 3, 4, 4)
    model = architecture.Classifier(nn.Identity(), [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    expected = (x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(model(x), expected)
    assert not model.state_dict()  # recorded in the file's header, not among the weights


def test_a_bare_state_dict_of_a_builtin_needs_no_arch() -> None:
    net = architecture.create("resnet", {"depth": 8, "width": 4, "channels": 1})
    built = architecture.build(checkpoint(net.state_dict()))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(built(x), net.eval()(x))
    assert not built.training


def test_missing_batch_counters_are_no_reason_to_refuse() -> None:
    weights = architecture.create("resnet", {"depth": 8, "width": 4}).state_dict()
    old = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    model = architecture.build(checkpoint(old))
    assert torch.equal(model.net.get_parameter("conv1.weight"), weights["conv1.weight"])


def test_a_factory_in_a_file(factory: str) -> None:
    weights = {"1.weight": torch.rand(5, 4), "1.bias": torch.rand(5)}
    model = architecture.build(checkpoint(weights), arch=f"{factory}:tiny", args={"classes": "5"})
    assert model(torch.rand(2, 1, 2, 2)).shape == (2, 5)


def test_a_factory_in_a_package() -> None:
    assert isinstance(architecture.create("torch.nn:ReLU"), nn.ReLU)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnett", "Did you mean 'resnet'"),
        ("{file}:tinny", "has no callable 'tinny'.\nDid you mean 'tiny'"),
        ("{file}:broken", "the factory failed: RuntimeError: boom"),
        ("{file}:wrong", "returned int, not a torch.nn.Module"),
        ("missing.py:net", "there is no file missing.py"),
        ("no_such_package_here:net", "cannot be imported"),
    ],
)
def test_arch_refusals(arch: str, message: str, factory: str) -> None:
    with pytest.raises(Exception, match=r"(?s).") as caught:
        architecture.create(arch.format(file=factory))
    assert message in str(caught.value)


def test_unknown_factory_argument_is_named(factory: str) -> None:
    with pytest.raises(ArchitectureError, match="got an unexpected keyword argument 'size'"):
        architecture.create(f"{factory}:tiny", {"size": 3})


def test_unknown_state_dict_says_what_still_works() -> None:
    with pytest.raises(ArchitectureError, match=r"(?s)bare state dict.*--arch file\.py:factory.*data-free"):
        architecture.build(checkpoint({"fc.weight": torch.rand(2, 2)}))


def test_wrong_shapes_are_named() -> None:
    weights = architecture.create("lenet").state_dict()
    weights["fc3.weight"] = torch.rand(5, 84)
    with pytest.raises(ArchitectureError, match=r"fc3.weight is \[5, 84\], the class has \[10, 84\]"):
        architecture.build(checkpoint(weights), arch="lenet")


def test_a_file_does_not_choose_the_code_that_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    hostile = {"name": "os:system", "args": {"command": f"touch {ran}"}}
    with pytest.raises(UnsafeFileError, match=r"'os:system', code from outside.*\n.*--arch os:system --arch-arg"):
        architecture.build(checkpoint({"fc.weight": torch.rand(2, 2)}, arch=hostile))
    assert not ran.exists()


def test_a_recorded_factory_runs_when_the_user_names_it(factory: str) -> None:
    arch = f"{factory}:tiny"
    source = checkpoint(architecture.create(arch, {"classes": 5}).state_dict(), arch={"name": arch, "args": {}})
    assert architecture.build(source, arch=arch, args={"classes": 5})(torch.zeros(1, 1, 2, 2)).shape == (1, 5)


def test_recorded_normalisation_wins_and_contradiction_is_refused() -> None:
    weights = architecture.create("lenet").state_dict()
    source = checkpoint(weights, normalization={"mean": [0.25], "std": [0.5]})
    assert architecture.build(source).mean.item() == 0.25
    assert architecture.build(source, mean=[0.25], std=[0.5]).std.item() == 0.5
    recorded = architecture.Classifier(nn.Identity(), [0.286], [0.353]).normalization
    assert recorded == {"mean": [0.286], "std": [0.353]}
    assert architecture.build(checkpoint(weights, normalization=recorded), mean=[0.286]).mean.item() > 0.28
    with pytest.raises(OptionError, match=r"--std is \[0.3\], but the file records \[0.5\]"):
        architecture.build(source, std=[0.3])
