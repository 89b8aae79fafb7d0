"""What a file is: its tensors, what they cost, where they come from, and whether loading it is safe."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from . import checkpoint, outline, pickles, sniff
from .errors import InputFileError, RobustqError, UnsafeFileError, WeightError
from .packed import Packed
from .unwrap import check_finite, check_stored, untie

Row = dict[str, Any]
_PICKLES = ("torch", "torch-legacy", "pickle")


def inspect(source: str | Path | BinaryIO) -> dict[str, Any]:
    """A JSON-able description of any file; nothing in it is run and no unsafe pickle is loaded.

    path, kind, description, bytes, sha256
    safe      whether loading it runs no code (None for TorchScript, a program); `unsafe` lists what it would import
    loadable  whether robustq can load it, with the `reason` where not
    notes     what is unwrapped or left out on loading
    tensors   name, shape, dtype, scheme ("stored" if not packed), encoding, alphabet, weights, zeros, bytes and bits
              (per weight, scales included); zeros is None where the data were not read
    totals    tensors, weights, zeros, bytes, bits (of a weight) of all tensors, overhead (bytes of everything else)
    aliases   tied tensors;  meta: provenance of a robustq file

    Raises InputFileError for a file that is missing, unreadable, empty, of no known kind, or
    damaged so that not even its tensors can be listed, and WeightError for NaN in a packed weight.
    """
    with checkpoint.opened(source) as (stream, place), checkpoint.located(place):
        kind = sniff.sniff(stream)
        if kind in ("empty", "unknown"):
            raise InputFileError(f"this is {sniff.KINDS[kind]}.", "Check that it was copied or downloaded whole.")
        digest, size = checkpoint.digest_of(stream)
        result = {
            "path": place,
            "kind": kind,
            "description": sniff.KINDS[kind],
            "bytes": size,
            "sha256": digest,
            "safe": True,
            "unsafe": [],
            "loadable": True,
            "reason": None,
            "notes": [],
            "tensors": [],
            "aliases": {},
            "meta": {},
        }
        result |= _own(stream) if kind == "robustq" else _onnx(stream) if kind == "onnx" else _other(stream, kind)
    return result | {"totals": _totals(result["tensors"], size)}


def _own(stream: BinaryIO) -> dict[str, Any]:
    weights, packed, aliases, meta = checkpoint.read_own(stream)
    rows = [_packed_row(name, tensor) for name, tensor in packed.items()] + [_row(*item) for item in weights.items()]
    return {"tensors": sorted(rows, key=lambda row: row["name"]), "aliases": aliases, "meta": meta} | _finite(weights)


def _other(stream: BinaryIO, kind: str) -> dict[str, Any]:
    unsafe = pickles.unsafe_names(stream) if kind in _PICKLES else []
    try:
        if unsafe:
            raise pickles.refusal(unsafe)
        weights, notes = checkpoint.read_weights(stream, kind)
    except RobustqError as error:
        safe = None if kind == "torchscript" else not (unsafe or isinstance(error, UnsafeFileError))
        rows = [_shape_row(name, shape) for name, shape in _outline(stream, kind).items()]
        return {"safe": safe, "unsafe": unsafe, "loadable": False, "reason": error.problem, "tensors": rows}
    try:
        check_stored(weights)
    except InputFileError as error:
        rows = [_shape_row(name, _shape(value)) for name, value in weights.items()]
        return {"notes": notes, "loadable": False, "reason": error.problem, "tensors": rows}
    own, aliases = untie(weights)
    return {"notes": notes, "tensors": [_row(*item) for item in own.items()], "aliases": aliases} | _finite(weights)


def _finite(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What changes in the description where tensors hold NaN or Inf."""
    try:
        check_finite(weights)
    except WeightError as error:
        return {"loadable": False, "reason": error.problem}
    return {}


def _outline(stream: BinaryIO, kind: str) -> dict[str, outline.Shape]:
    """The shapes in a pickle that must not be loaded; nothing where even they cannot be read."""
    if kind not in (*_PICKLES, "torchscript"):
        return {}
    try:
        return outline.read(*pickles.object_stream(stream))
    except InputFileError:
        return {}


def _onnx(stream: BinaryIO) -> dict[str, Any]:
    import onnx

    try:
        model = onnx.load_model(stream, load_external_data=False)  # external data may name any file of the machine
    except Exception as error:  # protobuf's own error class is not the same in every build of it
        raise InputFileError(f"the ONNX model cannot be read: {error}.", "Copy or download it again.") from None
    rows = [_onnx_row(tensor) for tensor in model.graph.initializer]
    meta = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        **{entry.key: entry.value for entry in model.metadata_props},
    }
    reason = "an ONNX model is something robustq writes, not a checkpoint it reads."
    return {"tensors": rows, "meta": meta, "loadable": False, "reason": reason}


def _onnx_row(tensor: Any) -> Row:
    from onnx import TensorProto

    known = TensorProto.DataType.values()
    dtype = TensorProto.DataType.Name(tensor.data_type).lower() if tensor.data_type in known else "unknown"
    external = tensor.data_location == TensorProto.EXTERNAL
    size = 0 if external else len(tensor.raw_data) or tensor.ByteSize()
    row = _shape_row(tensor.name, outline.Shape(tuple(tensor.dims), {"float": "float32"}.get(dtype, dtype)))
    return row | {"scheme": "external" if external else "stored"} | _cost(size, row["weights"])


def _packed_row(name: str, tensor: Packed) -> Row:
    header, payload = tensor.encode()
    size = sum(part.numel() * part.element_size() for part in payload.values())
    count = math.prod(tensor.shape)
    floats = next(part.dtype for part in payload.values() if part.dtype.is_floating_point)
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(floats).removeprefix("torch."),
        "scheme": tensor.scheme,
        "encoding": header.get("encoding") or ", ".join(dict.fromkeys(header.get("encodings", ()))) or None,
        "alphabet": _alphabet(header),
        "weights": count,
        "zeros": tensor.zeros,
        **_cost(size, count),
    }


def _alphabet(header: Mapping[str, Any]) -> str | None:
    if "distinct" in header:  # of factors
        return " + ".join(str(number) for number in header["distinct"] if number) or None
    if "levels" not in header:
        return None
    if header["levels"] == 1:
        return "binary" if header["binary"] else "ternary"
    return f"{2 * header['levels'] + 1} levels"


def _row(name: str, value: Tensor) -> Row:
    size = value.numel() * value.element_size()
    return _shape_row(name, _shape(value)) | {"zeros": int((value == 0).sum())} | _cost(size, value.numel())


def _shape(value: Tensor) -> outline.Shape:
    return outline.Shape(tuple(value.shape), str(value.dtype).removeprefix("torch."))


def _shape_row(name: str, shape: outline.Shape) -> Row:
    count = math.prod(shape.shape)
    return {
        "name": name,
        "shape": list(shape.shape),
        "dtype": shape.dtype,
        "scheme": "stored",
        "encoding": None,
        "alphabet": None,
        "weights": count,
        "zeros": None,
        "bytes": None,
        "bits": None,
    }


def _cost(size: int, count: int) -> dict[str, Any]:
    return {"bytes": size, "bits": round(8 * size / count, 3) if count else None}


def _totals(rows: list[Row], file_bytes: int) -> dict[str, Any]:
    known = all(row["bytes"] is not None for row in rows)
    weights, size = sum(row["weights"] for row in rows), sum(row["bytes"] or 0 for row in rows)
    zeros = sum(row["zeros"] for row in rows) if all(row["zeros"] is not None for row in rows) else None
    return {
        "tensors": len(rows),
        "weights": weights,
        "zeros": zeros,
        "bytes": size if known else None,
        "bits": round(8 * size / weights, 3) if known and weights else None,
        "overhead": file_bytes - size if known else None,
    }
