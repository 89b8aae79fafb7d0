import pytest
import torch
from torch import nn

from robustq.core.errors import InputFileError, WeightError
from robustq.core.unwrap import check_finite, check_stored, untie, unwrap

STATE = {"w": torch.ones(2, 3), "b": torch.zeros(2)}


@pytest.mark.parametrize(
    ("found", "notes"),
    [
        (STATE, []),
        ({"state_dict": STATE, "epoch": 3}, ["entry 'state_dict'", "left out: epoch"]),
        ({"model": STATE, "step": torch.tensor(3)}, ["entry 'model'", "left out: step"]),
        ({"net": STATE, "acc": 90.0}, ["entry 'net'", "left out: acc"]),
        ({"ema": STATE, "model": STATE}, ["entry 'model'", "left out: ema"]),
        ({"ema": {"shadow": STATE, "decay": 0.9}}, ["entry 'ema'", "entry 'shadow'", "left out: decay"]),
        ([STATE, STATE, STATE], ["item 0 of a list of 3"]),
        ({"state_dict": [STATE, STATE], "err": 0.1}, ["entry 'state_dict'", "left out: err", "item 0 of a list of 2"]),
        ({"model": {"depth": 20}, "weights": STATE}, ["entry 'weights'", "left out: model"]),
        ({"actor": STATE, "optimizer": {"state": {0: {"step": STATE["b"]}}}}, ["entry 'actor'", "left out: optimizer"]),
        ([{"state_dict": STATE}], ["item 0 of a list of 1", "entry 'state_dict'"]),
        ({"generator": STATE, "lr": 0.1}, ["entry 'generator'", "left out: lr"]),
        ({**STATE, "epoch": 3}, ["left out: epoch"]),
        ({f"module.{name}": value for name, value in STATE.items()}, ["prefix 'module.'"]),
        (
            {"model": {f"module._orig_mod.{name}": value for name, value in STATE.items()}},
            ["entry 'model'", "prefix 'module.'", "prefix '_orig_mod.'"],
        ),
    ],
)
def test_wrappers_are_taken_off_and_said(found, notes):
    weights, said = unwrap(found)
    assert said == notes
    assert list(weights) == ["w", "b"]
    assert torch.equal(weights["w"], STATE["w"])


def test_a_prefix_of_some_names_stays():
    assert list(unwrap({"module.w": STATE["w"], "b": STATE["b"]})[0]) == ["module.w", "b"]


def test_a_module_gives_its_state_dict():
    weights, notes = unwrap({"model": nn.Linear(3, 2)})
    assert list(weights) == ["weight", "bias"]
    assert not weights["weight"].requires_grad
    assert notes == ["entry 'model'", "state dict of the pickled Linear"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.ones(3), r"one tensor of shape \(3,\)"),
        (7, "holds a int"),
        ([], "list of 0"),
        ({}, "holds: nothing"),
        ({"epoch": 1, "lr": 0.1}, "holds: epoch, lr"),
        ({"generator": STATE, "critic": STATE}, "2 sets of tensors: generator, critic"),
    ],
)
def test_what_is_no_state_dict_is_refused(found, message):
    with pytest.raises(InputFileError, match=message):
        unwrap(found)


def test_what_holds_itself_ends():
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(InputFileError, match="list of 1"):
        unwrap(endless)
    with pytest.raises(InputFileError, match="holds: model, extra"):
        unwrap({"model": endless, "extra": [[0]]})


def test_tied_tensors_are_kept_once():
    base = torch.arange(6.0).reshape(2, 3)
    own, aliases = untie({"a": base, "b": base, "turned": base.t(), "row": base[1], "copy": base.clone()})
    assert aliases == {"b": "a"}
    assert list(own) == ["a", "turned", "row", "copy"]
    assert torch.equal(own["turned"], base.t())
    assert own["row"].untyped_storage().nbytes() == 12
    assert all(value.is_contiguous() for value in own.values())


def test_empty_tensors_are_not_tied():
    assert untie({"a": torch.empty(0), "b": torch.empty(0)})[1] == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(2).to_sparse(), "sparse_coo"),
        (torch.empty(2, device="meta"), "meta"),
        (torch.zeros(1).expand(2**40), "declares 4398046511104 bytes, but 4 are stored"),
    ],
)
def test_tensors_without_plain_data_are_refused(value, message):
    with pytest.raises(InputFileError, match=f"'w'.*{message}"):
        check_stored({"w": value})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_nan_is_counted(dtype):
    check_finite({"w": torch.ones(3).to(dtype), "n": torch.tensor([1, 2])})
    with pytest.raises(WeightError, match="'w' holds 1 NaN and 0 infinite values of 3"):
        check_finite({"w": torch.tensor([1.0, float("nan"), 2.0]).to(dtype)})


def test_infinity_is_counted():
    with pytest.raises(WeightError, match="0 NaN and 2 infinite values of 3"):
        check_finite({"w": torch.tensor([float("-inf"), float("inf"), 2.0])})
