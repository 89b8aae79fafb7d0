import io
import json
import os

import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from robustq.core.checkpoint import Checkpoint, dumps
from robustq.core.errors import InputFileError
from robustq.core.inspection import inspect
from robustq.core.packed import Half, Quantized, Sparse


def saved(thing, **options):
    stream = io.BytesIO()
    torch.save(thing, stream, **options)
    return stream


def rows(found):
    json.dumps(found, allow_nan=False)
    return {row["name"]: row for row in found["tensors"]}


def test_a_robustq_file_explains_every_tensor():
    codes = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, -1]] * 4, dtype=torch.int8)
    packed = {
        "a": Quantized(codes, torch.ones(4, 1, dtype=torch.float16), 1),
        "b": Quantized(codes * 7, torch.ones(1, 1), 7),
        "c": Half(torch.zeros(3, 2, dtype=torch.float16)),
        "d": Sparse(torch.ones(2), torch.tensor([True, True, False, False])),
    }
    meta = {"methods": [{"name": "projection", "bits": 2}]}
    data = dumps(Checkpoint({"bias": torch.tensor([0.0, 1.0])}, packed, {"tied": "a"}, meta))
    found = inspect(io.BytesIO(data))
    table = rows(found)
    assert (found["kind"], found["safe"], found["loadable"], found["bytes"]) == ("robustq", True, True, len(data))
    assert table["a"] == {
        "name": "a",
        "shape": [4, 10],
        "dtype": "float16",
        "scheme": "quantized",
        "encoding": "bitmap",
        "alphabet": "ternary",
        "weights": 40,
        "zeros": 32,
        "bytes": 5 + 1 + 8,
        "bits": 2.8,
    }
    assert (table["b"]["alphabet"], table["b"]["bytes"]) == ("15 levels", 5 + 4 + 4)
    assert (table["c"]["scheme"], table["c"]["zeros"], table["c"]["bits"]) == ("half", 6, 16)
    assert (table["d"]["scheme"], table["d"]["encoding"], table["d"]["zeros"]) == ("sparse", "bitmap", 2)
    assert (table["bias"]["scheme"], table["bias"]["dtype"], table["bias"]["zeros"]) == ("stored", "float32", 1)
    assert found["aliases"] == {"tied": "a"}
    assert found["meta"]["methods"] == meta["methods"]
    totals = found["totals"]
    assert totals["weights"] == 40 + 40 + 6 + 4 + 2
    assert totals["bytes"] + totals["overhead"] == len(data)
    assert totals["zeros"] == 32 + 32 + 6 + 2 + 1


def test_a_plain_checkpoint():
    found = inspect(saved({"state_dict": {"w": torch.tensor([0.0, 1.0])}, "epoch": 1}))
    assert (found["kind"], found["safe"], found["loadable"], found["reason"]) == ("torch", True, True, None)
    assert found["notes"] == ["entry 'state_dict'", "left out: epoch"]
    assert rows(found)["w"]["zeros"] == 1
    assert found["totals"] == {
        "tensors": 1,
        "weights": 2,
        "zeros": 1,
        "bytes": 8,
        "bits": 32.0,
        "overhead": found["bytes"] - 8,
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_an_unsafe_file_is_described_and_not_run(tmp_path, zipped):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    stream = saved({"net": nn.Linear(3, 2), "x": Hostile()}, _use_new_zipfile_serialization=zipped)
    found = inspect(stream)
    assert (found["safe"], found["loadable"]) == (False, False)
    assert {f"{os.mkdir.__module__}.mkdir", "torch.nn.modules.linear.Linear"} <= set(found["unsafe"])
    assert "mkdir" in found["reason"]
    assert rows(found)["net.weight"]["shape"] == [2, 3]
    assert found["totals"]["bytes"] is None
    assert not (tmp_path / "ran").exists()


def test_nan_is_reported_not_raised():
    found = inspect(saved({"w": torch.tensor([float("nan"), 0.0])}))
    assert (found["loadable"], found["safe"]) == (False, True)
    assert "1 NaN" in found["reason"]
    assert rows(found)["w"]["zeros"] == 1


@pytest.mark.parametrize(
    "value", [torch.eye(2).to_sparse(), torch.empty(2**40, device="meta"), torch.zeros(1).expand(2**40)]
)
def test_tensors_without_plain_data_are_listed(value):
    found = inspect(saved({"w": value}))
    assert not found["loadable"]
    assert "'w'" in found["reason"]
    assert rows(found)["w"]["shape"] == list(value.shape)


def test_damaged_data_is_said():
    found = inspect(io.BytesIO(save_safetensors({"w": torch.ones(4)})[:-2]))
    assert (found["kind"], found["loadable"]) == ("safetensors", False)
    assert "cannot be read" in found["reason"]


def test_onnx_initializers():
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    weight = numpy_helper.from_array(torch.ones(2, 3).numpy(), "w")
    outside = TensorProto(name="far", dims=[10], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    strange = TensorProto(name="strange", dims=[1], data_type=99, raw_data=b"12")
    tensors = [weight, outside, strange]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value], tensors)
    found = inspect(io.BytesIO(helper.make_model(graph, producer_name="test").SerializeToString()))
    assert (found["kind"], found["loadable"], found["meta"]["producer"]) == ("onnx", False, "test")
    table = rows(found)
    assert (table["w"]["shape"], table["w"]["dtype"], table["w"]["bytes"]) == ([2, 3], "float32", 24)
    assert (table["far"]["scheme"], table["far"]["bytes"]) == ("external", 0)
    assert (table["strange"]["dtype"], table["strange"]["bytes"]) == ("unknown", 2)


def test_other_kinds_are_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("epochs = 3")
    found = inspect(path)
    assert (found["kind"], found["path"], found["loadable"]) == ("text", str(path), False)
    assert rows(found) == {}


@pytest.mark.parametrize("data", [b"", b"\x00\x01", save_safetensors({"w": torch.ones(4)})[:30], b"\x08\x07\x12\xff"])
def test_what_cannot_be_described_is_refused(data):
    with pytest.raises(InputFileError):
        inspect(io.BytesIO(data))
