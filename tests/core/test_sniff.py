import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from robustq.core import archive
from robustq.core.errors import InputFileError
from robustq.core.sniff import KINDS, read_header, sniff

STATE = {"w": torch.ones(2, 3)}


def saved(thing, **options):
    stream = io.BytesIO()
    torch.save(thing, stream, **options)
    return stream.getvalue()


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name in names:
            opened.writestr(name, b"x")
    return stream.getvalue()


def onnx_bytes():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [value])
    return helper.make_model(graph).SerializeToString()


def array_bytes():
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("torch", saved(STATE)),
        ("torch-legacy", saved(STATE, _use_new_zipfile_serialization=False)),
        ("safetensors", save(STATE)),
        ("safetensors", save(STATE, metadata={"format": "pt"})),
        ("robustq", save(STATE, metadata={"robustq": "{}"})),
        ("torchscript", zipped("m/data.pkl", "m/code/a.py", "m/constants.pkl")),
        ("pt2", zipped("m/models/model.json", "m/archive_format")),
        ("npz", zipped("x.npy", "y.npy")),
        ("zip", zipped("photo.jpg")),
        ("onnx", onnx_bytes()),
        ("numpy", array_bytes()),
        ("pickle", pickle.dumps({"a": 1})),
        ("pickle", pickle.dumps(io.BytesIO, protocol=0)),
        ("gzip", b"\x1f\x8b\x08" + bytes(9)),
        ("xz", b"\xfd7zXZ\x00" + bytes(9)),
        ("hdf5", b"\x89HDF\r\n\x1a\n"),
        ("gguf", b"GGUF\x03\x00"),
        ("html", b"\n<!DOCTYPE html><html>"),
        ("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ("tar", bytes(257) + b"ustar" + bytes(250)),
        ("text", b"epochs = 3\n"),
        ("text", b"compress\n"),
        ("empty", b""),
        ("unknown", b"\x00\x01\x02"),
    ],
)
def test_kind_from_bytes(kind, data):
    stream = io.BytesIO(data)
    assert sniff(stream) == kind
    assert kind in KINDS
    assert stream.tell() == 0


def test_header():
    entries, metadata = read_header(io.BytesIO(save(STATE, metadata={"a": "b"})))
    assert entries["w"]["shape"] == [2, 3]
    assert metadata == {"a": "b"}


def header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(b"{}", 2**60), "1152921504606846976 bytes long, but the file has 10 bytes"),
        (save(STATE)[:20], "but the file has 20 bytes"),
        (header(b"{not json"), "header cannot be read"),
        (header(b'{"a":' + b"[" * 100_000), "header cannot be read"),
        (header(json.dumps({"__metadata__": [1]}).encode()), "not a table"),
        (saved(STATE)[:200], "damaged or cut short"),
        (b"PK\x03\x04" + bytes(100), "damaged or cut short"),
    ],
)
def test_damage_is_named(data, message):
    with pytest.raises(InputFileError, match=message):
        sniff(io.BytesIO(data))


def test_absurdly_compressed_archives_are_refused(monkeypatch):
    monkeypatch.setattr(archive, "MAX_UNPACKED", 2**16)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("m/data.pkl", bytes(2**20))
    with pytest.raises(InputFileError, match="would unpack to 1048576 bytes"):
        sniff(stream)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (30 + len("m/data.pkl"), b"y"),  # the one byte of content, against its checksum
        (30, b"\xff"),  # the name
        (-6, b"\xff\xff\xff\x7f"),  # where the directory is
    ],
)
def test_damaged_entries_are_named(place, value):
    data = bytearray(zipped("m/data.pkl"))
    data[place : place + len(value) or None] = value
    with pytest.raises(InputFileError, match=r"data\.pkl in the archive cannot be read|damaged or cut short"):
        archive.read_entry(io.BytesIO(bytes(data)), "data.pkl")


def test_missing_entries_are_named():
    with pytest.raises(InputFileError, match="other"):
        archive.read_entry(io.BytesIO(zipped("m/data.pkl")), "other")
