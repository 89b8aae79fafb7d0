"""Replay: what is in the files is tried, inside the ball, on the images it belongs to; everything else is refused."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustq.core import registry
from robustq.core.attacks.transfer import Transfer
from robustq.core.driver import perturb
from robustq.core.errors import DataError, InputFileError, OptionError

X = 0.2 + 0.1 * torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(8, dtype=torch.long)


def net(x: Tensor) -> Tensor:
    """Class 1 where the first pixel is above 0.35; no gradient is to be asked."""
    assert not x.requires_grad
    return torch.stack([0.35 - x[:, 0, 0, 0], x[:, 0, 0, 0] - 0.35], 1)


def write(path: Path, x: Tensor, rows: list[int], by: float) -> str:
    """Adversarials that move the first pixel of the rows."""
    adversarial = x.clone()
    adversarial[rows, 0, 0, 0] += by
    save_file({"x": x, "adversarial": adversarial}, path)
    return str(path)


def test_files_are_tried_one_after_the_other(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{rows[0]}.safetensors", X, rows, 0.2) for rows in ([0, 1], [1, 2], [5])]
    found = perturb(Transfer(eps=0.2, files=tuple(files)), net, X, Y)
    assert found.fooled.nonzero().flatten().tolist() == [0, 1, 2, 5]
    assert found.backwards == 0
    one = perturb(Transfer(eps=0.2, files=(files[2],)), net, X, Y)
    assert one.fooled.nonzero().flatten().tolist() == [5]
    order = torch.tensor([7, 5, 0])
    mixed = perturb(Transfer(eps=0.2, files=tuple(files)), net, X[order], Y[:3], index=order, micro_batch=2)
    assert mixed.fooled.tolist() == [False, True, True]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_larger_perturbations_are_drawn_into_the_ball(tmp_path: Path, norm: str) -> None:
    file = write(tmp_path / "a.safetensors", X, list(range(8)), 0.6)
    found = perturb(Transfer(eps=0.01, norm=norm, files=(file,)), net, X, Y)
    assert found.robust.all()
    assert torch.allclose(found.norms, torch.full((8,), 0.01), atol=1e-6)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    attack = Transfer(eps=0.2, files=(write(path, X, [0], 0.2),))
    assert perturb(attack, net, X, Y).fooled.sum() == 1
    write(path, X, [0, 1], 0.2)
    os.utime(path, (1, 1))
    assert perturb(attack, net, X, Y).fooled.sum() == 2


def test_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other images"):
        perturb(Transfer(eps=0.2, files=(write(tmp_path / "a.safetensors", X.flip(0), [0], 0.2),)), net, X, Y)
    with pytest.raises(DataError, match="other images"):
        perturb(Transfer(eps=0.2, files=(write(tmp_path / "b.safetensors", X[:4], [0], 0.2),)), net, X, Y)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    save_file({"weight": X}, tmp_path / "weights")
    for name, found in (("missing", "cannot be read"), ("text", "no safetensors"), ("weights", "holds weight")):
        with pytest.raises(InputFileError, match=found):
            perturb(Transfer(eps=0.2, files=(str(tmp_path / name),)), net, X, Y)


def test_files_must_be_named() -> None:
    with pytest.raises(OptionError, match="needs a value for files"):
        registry.create("transfer", {"eps": 0.1}, "attack")
    with pytest.raises(OptionError, match="no file is named"):
        registry.create("transfer", {"eps": 0.1, "files": ""}, "attack")
