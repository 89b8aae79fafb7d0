import errno
import io
import json
import os
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from robustq.core import checkpoint, container
from robustq.core.checkpoint import Checkpoint, dumps, load, save
from robustq.core.errors import InputFileError, OutputError, UnsafeFileError, WeightError
from robustq.core.packed import Half, Quantized, Sparse

STATE = {"conv.weight": torch.arange(8.0).reshape(2, 1, 2, 2), "conv.bias": torch.tensor([1.0, -1.0])}
FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


def example():
    codes = torch.tensor([[1, 0, -1], [0, 1, 1]], dtype=torch.int8)
    weight = Quantized(codes, torch.tensor([[0.5], [2.0]], dtype=torch.float16), 1)
    meta = {"arch": {"name": "net", "args": {}}}
    return Checkpoint({"fc.bias": torch.tensor([1.0, -2.0])}, {"fc.weight": weight}, {}, meta)


def equal(left, right):
    assert set(left) == set(right)
    for name, value in left.items():
        assert right[name].dtype == value.dtype
        assert torch.equal(right[name], value), name


def write(path, thing, **options):
    torch.save(thing, path, **options)
    return path


# Reading


@pytest.mark.parametrize("zipped", [True, False], ids=["torch", "torch-legacy"])
def test_torch_files(tmp_path, zipped):
    path = write(tmp_path / "m.onnx", {"state_dict": STATE, "epoch": 3}, _use_new_zipfile_serialization=zipped)
    found = load(path)
    equal(found.weights, STATE)
    assert found.source.kind == ("torch" if zipped else "torch-legacy")
    assert found.source.notes == ("entry 'state_dict'", "left out: epoch")
    assert found.source.bytes == path.stat().st_size
    assert found.source.path == str(path)
    assert list(found.weights) == list(STATE)


def test_safetensors_from_a_stream():
    data = save_safetensors(STATE)
    found = load(io.BytesIO(data))
    equal(found.weights, STATE)
    assert (found.source.kind, found.source.path) == ("safetensors", "-")


def test_safetensors_come_in_the_order_of_their_names():
    """The library gives them in another order in each process; "first" and "last" layers depend on it."""
    names = [f"layer{i}.weight" for i in range(30)]
    found = load(io.BytesIO(save_safetensors({name: torch.ones(1) for name in reversed(names)})))
    assert list(found.weights) == sorted(names)


def test_a_stream_that_cannot_seek():
    out, into = os.pipe()
    with os.fdopen(into, "wb") as stream:
        stream.write(save_safetensors(STATE))
    with os.fdopen(out, "rb") as stream:
        equal(load(stream).weights, STATE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool])
def test_dtypes_are_kept(tmp_path, dtype):
    path = write(tmp_path / "m.pt", {"w": torch.tensor([[0, 1], [1, 0]]).to(dtype)})
    found = load(path)
    assert found.weights["w"].dtype == dtype
    equal(load(io.BytesIO(dumps(found))).dense(), found.dense())


def test_tied_tensors_are_stored_once(tmp_path):
    shared = torch.ones(100, 100)
    found = load(write(tmp_path / "m.pt", {"encoder": shared, "decoder": shared}))
    assert found.aliases == {"decoder": "encoder"}
    data = dumps(found)
    assert len(data) < 41_000
    again = load(io.BytesIO(data))
    assert again.aliases == found.aliases
    equal(again.dense(), {"encoder": shared, "decoder": shared})


def test_a_pickled_module_needs_trust(tmp_path):
    path = write(tmp_path / "m.pt", nn.Linear(3, 2))
    with pytest.raises(UnsafeFileError, match=r"m\.pt: .*torch\.nn\.modules\.linear\.Linear"):
        load(path)
    assert list(load(path, trust_pickle=True).weights) == ["weight", "bias"]


def test_nan_is_refused(tmp_path):
    path = write(tmp_path / "m.pt", {"w": torch.tensor([float("nan")])})
    with pytest.raises(WeightError, match=r"m\.pt: tensor 'w' holds 1 NaN"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt", None, "does not exist"),
        ("empty.pt", b"", "an empty file"),
        ("cut.pt", b"PK\x03\x04junk", "damaged or cut short"),
        ("cut.safetensors", save_safetensors(STATE)[:-3], "cannot be read"),
        ("page.pt", b"<html>", "web page"),
        ("m.pt.gz", b"\x1f\x8b\x08\x00", "gzip-compressed data(.|\n)*gunzip"),
        ("noise.pt", bytes(range(128, 256)), "no kind that is known"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputFileError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_folder_and_an_unreadable_file(tmp_path, monkeypatch):
    with pytest.raises(InputFileError, match="is a folder"):
        load(tmp_path)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the superuser may read anything
    with pytest.raises(InputFileError, match=r"secret\.pt cannot be read: Permission denied"):
        load(tmp_path / "secret.pt")


# The robustq file


def test_the_example_of_the_documentation(monkeypatch):
    monkeypatch.setattr(container, "version", lambda _: "0.1.0")
    text = FORMAT.read_text().partition("## Example")[2]
    header = re.search(r"```json\n(.*?)\n```", text, re.S)
    body = re.search(r"```hex\n(.*?)```", text, re.S)
    assert header
    assert body
    head = header[1].encode()
    head += b" " * (-len(head) % 8)
    data = struct.pack("<Q", len(head)) + head
    data += bytes.fromhex("".join(line.partition("#")[0] for line in body[1].splitlines()))
    assert len(data) == 470
    assert dumps(example()) == data
    found = load(io.BytesIO(data)).dense()
    assert found["fc.weight"].tolist() == [[0.5, 0, -0.5], [0, 2, 2]]
    assert found["fc.bias"].tolist() == [1, -2]


def test_round_trip_and_metadata(tmp_path):
    path = tmp_path / "m.rq.safetensors"
    assert save(example(), path) == path.stat().st_size
    found = load(path)
    equal(found.dense(), example().dense())
    assert found.source.kind == "robustq"
    assert found.meta["arch"] == {"name": "net", "args": {}}
    assert found.meta["tool"].startswith("robustq ")
    assert dumps(found) == path.read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_contents_come_back(data):
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    levels = data.draw(st.sampled_from([1, 3, 7, 127]))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    codes = torch.randint(-levels, levels + 1, (rows, columns), generator=seed, dtype=torch.int8)
    mask = torch.rand(rows, columns, generator=seed) < 0.5
    packed = {
        "a.weight": Quantized(codes, torch.rand(rows, 1, generator=seed), levels),
        "b": Sparse(torch.rand(int(mask.sum()), generator=seed), mask),
        "c::codes": Half(torch.rand(rows, columns, generator=seed).half()),
    }
    weights = {"d": torch.rand(columns, generator=seed), "e::scale": torch.tensor(3)}
    before = Checkpoint(weights, packed, {"f": "a.weight"}, {"recipe": {"seed": 0}})
    written = dumps(before)
    after = load(io.BytesIO(written))
    equal(before.dense(), after.dense())
    assert set(after.packed) == set(packed)
    assert dumps(after) == written


def test_order_does_not_matter():
    half = Half(torch.ones(2).half())
    left = Checkpoint({"a": torch.ones(1), "b": torch.ones(2)}, {"x": half, "y": half}, {}, {"k": 1, "j": 2})
    right = Checkpoint({"b": torch.ones(2), "a": torch.ones(1)}, {"y": half, "x": half}, {}, {"j": 2, "k": 1})
    assert dumps(left) == dumps(right)


def rewritten(change):
    """The example's file with its metadata and tensors changed."""
    data = dumps(example())
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["robustq"])
    tensors = load_safetensors(data)
    text = change(head, tensors)
    return save_safetensors(tensors, metadata={"robustq": json.dumps(head) if text is None else text})


def entry(**values):
    def change(head, tensors):
        head["tensors"]["fc.weight"].update(values)

    return change


def top(**values):
    def change(head, tensors):
        head.update(values)

    return change


def stored(**values):
    def change(head, tensors):
        for part, value in values.items():
            name = f"fc.weight::{part}"
            tensors.pop(name, None)
            if value is not None:
                tensors[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (top(format=2), r"format 2; this robustq reads up to 1.\n.*robustq \d"),
        (top(format="1"), "format number is '1'"),
        (top(format=None), "format number is None"),
        (lambda head, tensors: "not json", "metadata is not JSON"),
        (lambda head, tensors: "[]", "format number is None"),
        (top(tensors=[]), "wrong type"),
        (top(aliases={"x": 3}), "aliases.*not names"),
        (top(aliases={"x": "nothing"}), "'x' is tied to 'nothing'"),
        (top(aliases={"fc.bias": "fc.weight"}), "'fc.bias' is tied"),
        (entry(scheme="magic"), "'fc.weight' has the scheme 'magic'"),
        (entry(shape=[2, -3]), "'fc.weight' has the shape"),
        (entry(shape="2,3"), "'fc.weight' has the shape"),
        (entry(shape=[2, 6]), "'fc.weight' .*12 codes in base3 take 3 bytes, but 2"),
        (entry(shape=[2**20, 2**20]), "declares 1099511627776 weights, but 6 bytes are stored"),
        (entry(levels=3), "'fc.weight'.*u3, bitmap"),
        (entry(encoding="bitmap"), "'fc.weight'.*bitmap"),
        (stored(codes=torch.tensor([255, 2], dtype=torch.uint8)), "'fc.weight'.*base3 byte is 255"),
        (stored(codes=None), "stored as scale, not as codes, scale"),
        (stored(extra=torch.ones(1)), "stored as codes, extra, scale"),
        (stored(scale=torch.tensor([[1.0], [-1.0]])), "'fc.weight'.*-1.0"),
        (lambda head, tensors: tensors.update({"fc.weight": torch.ones(1)}), "'fc.weight' is stored twice"),
    ],
)
def test_inconsistent_files_are_refused(change, message):
    with pytest.raises(InputFileError, match=message):
        load(io.BytesIO(rewritten(change)))


@pytest.mark.parametrize("change", [stored(scale=torch.tensor([[1.0], [float("nan")]])), None])
def test_nan_in_a_robustq_file(change):
    def spoil(head, tensors):
        tensors["fc.bias"] = torch.tensor([float("inf"), 1.0])

    with pytest.raises(WeightError, match=r"fc\.weight::scale|fc\.bias"):
        load(io.BytesIO(rewritten(change or spoil)))


def test_unknown_entries_are_ignored():
    def change(head, tensors):
        head["later"] = 1
        head["tensors"]["fc.weight"]["later"] = 1

    equal(load(io.BytesIO(rewritten(change))).dense(), example().dense())


@pytest.mark.parametrize("size", [5, 9, 100, 460, -1])
def test_every_cut_is_noticed(size):
    with pytest.raises(InputFileError):
        load(io.BytesIO(dumps(example())[:size]))


# Writing


def test_names_that_collide_are_refused():
    half = Half(torch.ones(2).half())
    with pytest.raises(OutputError, match="fc::values"):
        dumps(Checkpoint({"fc::values": torch.ones(1)}, {"fc": half}, {}, {}))


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(OutputError, match="cannot be stored"):
        dumps(Checkpoint({"w": torch.ones(1)}, {}, {}, {"eps": float("nan")}))
    with pytest.raises(OutputError, match="cannot be stored"):
        dumps(Checkpoint({"w": torch.eye(2).to_sparse()}, {}, {}, {}))


def test_save_refuses_an_existing_file(tmp_path):
    path = tmp_path / "m.rq.safetensors"
    path.write_bytes(b"keep")
    with pytest.raises(OutputError, match="exists already"):
        save(example(), path)
    assert path.read_bytes() == b"keep"
    save(example(), path, force=True)
    assert checkpoint.load(path).packed
