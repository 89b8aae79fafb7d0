import io
import json
import os
import warnings
import zipfile

import pytest
import torch
from torch import nn

from robustq.core import program
from robustq.core.errors import InputFileError, UnsafeFileError

FLOAT, STRIDED = 7, 7


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return self.tied(self.norm(self.first(x)))


def entry(path="weight_0", sizes=(2, 3), strides=(3, 1), offset=0, dtype=FLOAT, use_pickle=False):
    meta = {
        "dtype": dtype,
        "sizes": [{"as_int": size} for size in sizes],
        "strides": [{"as_int": stride} for stride in strides],
        "storage_offset": {"as_int": offset},
        "layout": STRIDED,
    }
    return {"path_name": path, "is_param": True, "use_pickle": use_pickle, "tensor_meta": meta}


def archive(config, files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr("m/archive_format", "pt2")
        if config is not None:
            opened.writestr("m/data/weights/model_weights_config.json", json.dumps({"config": config}))
        for name, data in files.items():
            opened.writestr(name, data)
    return stream


DATA = {"m/data/weights/weight_0": torch.arange(6.0).numpy().tobytes()}


def test_what_torch_writes_is_what_is_read():
    model = Net().eval()
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own deprecations
        torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), stream)
    weights, notes = program.read(stream)
    expected = model.state_dict()
    assert notes == []
    assert set(weights) == set(expected)
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value)
    assert weights["first.weight"].data_ptr() == weights["tied.weight"].data_ptr()


def test_strides_offsets_and_dtypes():
    config = {
        "turned": entry(sizes=(3, 2), strides=(1, 3)),
        "tail": entry(sizes=(2,), strides=(1,), offset=4),
        "bytes": entry(sizes=(24,), strides=(1,), dtype=1),
        "none": entry(sizes=(0, 5), strides=(5, 1)),
    }
    weights, _ = program.read(archive(config, DATA))
    assert weights["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert weights["tail"].tolist() == [4, 5]
    assert weights["bytes"].dtype == torch.uint8
    assert weights["none"].shape == (0, 5)


def test_the_older_layout():
    stream = io.BytesIO()
    torch.save({"w": torch.ones(2)}, stream)
    weights, notes = program.read(archive(None, {"serialized_state_dict.pt": stream.getvalue()}))
    assert torch.equal(weights["w"], torch.ones(2))
    assert notes == ["entry 'serialized_state_dict.pt'"]


def test_pickled_weights_are_loaded_safely(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    stream = io.BytesIO()
    torch.save(Hostile(), stream)
    with pytest.raises(UnsafeFileError, match="mkdir"):
        program.read(archive({"w": entry(use_pickle=True)}, {"m/data/weights/weight_0": stream.getvalue()}))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no weights"),
        ({"w": entry(path="other")}, "'w'.*other"),
        ({"w": entry(sizes=(9, 9), strides=(9, 1))}, "'w'.*out of bounds"),
        ({"w": entry(dtype=99)}, "'w'.*99"),
        ({"w": entry(sizes=(-1,), strides=(1,))}, "'w'"),
        ({"w": {}}, "'w'.*path_name"),
        ([], "cannot be read"),
    ],
)
def test_damage_is_named(config, message):
    with pytest.raises(InputFileError, match=message):
        program.read(archive(config, DATA))
