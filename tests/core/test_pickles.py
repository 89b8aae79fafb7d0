import io
import os
import pickle
import zipfile
from argparse import Namespace

import pytest
import torch
from torch import nn

from robustq.core import outline, pickles
from robustq.core.errors import InputFileError, UnsafeFileError

STATE = {"w": torch.ones(2, 3), "b": torch.zeros(2)}
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def saved(thing, zipped=True):
    stream = io.BytesIO()
    torch.save(thing, stream, _use_new_zipfile_serialization=zipped)
    return stream


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_shows_what_it_imports(protocol, tmp_path):
    thing = [Hostile(tmp_path / "ran"), Namespace(a=1), Hostile(tmp_path / "ran"), "os.remove"]
    names = pickles.global_names(io.BytesIO(pickle.dumps(thing, protocol)))
    assert f"{os.mkdir.__module__}.mkdir" in names
    assert "argparse.Namespace" in names
    assert "os.remove" not in names
    assert not (tmp_path / "ran").exists()


def test_names_found_through_the_memo():
    # The strings are pushed once, kept in the memo, and fetched again just before they are used.
    code = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94]h\x00h\x01\x93."
    assert pickles.global_names(io.BytesIO(code)) == ["os.system"]


def test_names_that_are_computed_are_shown_as_unknown():
    assert pickles.global_names(io.BytesIO(b"\x80\x04K\x01\x8c\x06system\x93.")) == ["?.system"]


def test_extension_codes_are_shown():
    assert pickles.global_names(io.BytesIO(b"\x80\x02\x82\x05.")) == ["copyreg extension 5"]


@FORMATS
def test_plain_weights_need_nothing_unsafe(zipped):
    stream = saved({"state_dict": STATE, "half": torch.ones(2).half(), "lr": 0.1}, zipped)
    assert pickles.unsafe_names(stream) == []
    assert torch.equal(pickles.load(stream)["state_dict"]["w"], STATE["w"])


@FORMATS
def test_hostile_pickles_are_refused_and_named(zipped, tmp_path):
    stream = saved({"state_dict": STATE, "extra": Hostile(tmp_path / "ran")}, zipped)
    with pytest.raises(UnsafeFileError, match=r"mkdir\.\n.*--trust-pickle"):
        pickles.load(stream)
    assert not (tmp_path / "ran").exists()
    pickles.load(stream, trust=True)
    assert (tmp_path / "ran").is_dir()


def test_plain_pickles(tmp_path):
    hostile = io.BytesIO(pickle.dumps(Hostile(tmp_path / "ran")))
    with pytest.raises(UnsafeFileError, match="mkdir"):
        pickles.load_plain(hostile)
    assert not (tmp_path / "ran").exists()
    assert pickles.load_plain(io.BytesIO(pickle.dumps({"a": Namespace(x=1)})), trust=True)["a"].x == 1
    with pytest.raises(InputFileError, match="plain Python pickle without tensors"):
        pickles.load_plain(io.BytesIO(pickle.dumps({"a": 1})))


def test_many_names_are_cut():
    assert "a7 and 2 more" in str(pickles.refusal([f"a{i}" for i in range(10)]))


@pytest.mark.parametrize("size", [60, 200, -8])
def test_damage_is_an_input_error(size):
    data = saved(STATE, zipped=False).getvalue()
    with pytest.raises(InputFileError, match="cannot be read"):
        pickles.load(io.BytesIO(data[:size]))


def test_missing_code_is_named():
    stream = io.BytesIO()
    with zipfile.ZipFile(saved(Namespace(a=1))) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"argparse", b"argparsx"))
    with pytest.raises(InputFileError, match=r"No module named 'argparsx'.*\n.*PYTHONPATH"):
        pickles.load(stream, trust=True)


@FORMATS
def test_outline_of_a_pickled_module(zipped):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    stream = saved({"net": model, "epoch": 3}, zipped)
    found = outline.read(*pickles.object_stream(stream))
    assert found["net.0.weight"] == outline.Shape((4, 1, 3, 3), "float32")
    assert found["net.1.num_batches_tracked"] == outline.Shape((), "int64")
    assert {name.removeprefix("net.") for name in found} == set(model.state_dict())


@FORMATS
def test_outline_runs_nothing(zipped, tmp_path):
    stream = saved({"w": torch.ones(2, 3).half(), "extra": Hostile(tmp_path / "ran")}, zipped)
    assert outline.read(*pickles.object_stream(stream)) == {"w": outline.Shape((2, 3), "float16")}
    assert not (tmp_path / "ran").exists()


def test_outline_of_a_pickle_that_holds_itself():
    endless: dict[str, object] = {"w": torch.ones(2)}
    endless["again"] = endless
    assert list(outline.read(*pickles.object_stream(saved(endless)))) == ["w"]


def test_outline_of_damage():
    with pytest.raises(InputFileError, match="cannot be read"):
        outline.read(io.BytesIO(b"\x80\x02junk"))
