"""Weights of a torch.export program (.pt2), read from the archive without loading the program.

torch.export.load unpickles with weights_only=False and may load native libraries, so it is not used on files of
unknown origin. The archive itself is plain: raw little-endian tensors and JSON that describes them.
"""

import io
import json
import math
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import pickles
from .archive import DAMAGE, inner, open_zip
from .errors import InputFileError

# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_CONFIG = "_weights_config.json"
_DAMAGED = "The file is damaged, or written by another version of torch: save the state dict instead."


def read(stream: BinaryIO) -> tuple[Any, list[str]]:
    """(state dict, notes) of the first program in the archive. Raises InputFileError or UnsafeFileError."""
    with open_zip(stream) as archive:
        paths = {inner(name): name for name in archive.namelist()} | {n: n for n in archive.namelist()}
        configs = sorted(p for p in paths if p.startswith("data/weights/") and p.endswith(_CONFIG))
        older = sorted(p for p in paths if p.startswith("data/weights/") and p.endswith(".pt"))
        older += [p for p in paths if p == "serialized_state_dict.pt"]
        try:
            if configs:
                notes = [f"program {configs[0][13 : -len(_CONFIG)]!r} of {len(configs)}"] if len(configs) > 1 else []
                return _weights(archive, paths, configs[0]), notes
            if older:
                return pickles.load(io.BytesIO(archive.read(paths[older[0]]))), [f"entry {older[0]!r}"]
        except DAMAGE as error:
            raise InputFileError(f"the archive is damaged: {error}.", _DAMAGED) from None
    raise InputFileError("the torch.export archive holds no weights.", "Save the state dict instead.")


def _weights(archive: zipfile.ZipFile, paths: dict[str, str], config: str) -> dict[str, Tensor]:
    buffers: dict[str, bytearray] = {}
    weights: dict[str, Tensor] = {}
    name = config
    try:
        for name, entry in json.loads(archive.read(paths[config]))["config"].items():
            path = f"data/weights/{entry['path_name']}"
            if path not in buffers:
                buffers[path] = bytearray(archive.read(paths[path]))
            if entry["use_pickle"]:
                weights[name] = pickles.load(io.BytesIO(bytes(buffers[path])))
            else:
                weights[name] = _tensor(buffers[path], entry["tensor_meta"])
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise InputFileError(f"entry {name!r} of the archive cannot be read: {error!r}.", _DAMAGED) from None
    return weights


def _tensor(data: bytearray, meta: dict[str, Any]) -> Tensor:
    dtype = _DTYPES[meta["dtype"]]
    shape, strides = ([int(number["as_int"]) for number in meta[key]] for key in ("sizes", "strides"))
    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    return flat.as_strided(shape, strides, int(meta["storage_offset"]["as_int"]))
