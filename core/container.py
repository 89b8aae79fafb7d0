"""robustq's own file: a safetensors file whose metadata says what each packed tensor is. See docs/format.md."""

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from . import provenance
from .encodings import MAX_EXPANSION, MAX_SMALL
from .errors import InputFileError, OutputError
from .packed import SCHEMES, Packed
from .unwrap import check_finite

FORMAT = 1  # a reader refuses a higher number; entries it does not know within a format are ignored
KEY = "robustq"
SEPARATOR = "::"  # NAME::PART

Contents = tuple[dict[str, Tensor], dict[str, Packed], dict[str, str], dict[str, Any]]
_DAMAGED = "The file is damaged: copy it again, or compress the model again."


def dump(
    weights: Mapping[str, Tensor], packed: Mapping[str, Packed], aliases: Mapping[str, str], meta: Mapping[str, Any]
) -> bytes:
    """The bytes of the file; the same contents always give the same bytes."""
    stored = {name: value.detach() for name, value in weights.items()}
    table: dict[str, dict[str, Any]] = {}
    for name, tensor in packed.items():
        header, payload = tensor.encode()
        table[name] = {"scheme": tensor.scheme, "shape": list(tensor.shape), **header}
        for part, value in payload.items():
            if f"{name}{SEPARATOR}{part}" in stored:
                raise OutputError(f"two tensors would be called {name}{SEPARATOR}{part} in the file.", "Rename one.")
            stored[f"{name}{SEPARATOR}{part}"] = value.detach()
    head: dict[str, Any] = {
        "format": FORMAT,
        "tool": f"robustq {version('robustq')}",
        "tensors": table,
        "meta": {key: value for key, value in meta.items() if key != "tool"},
    }
    if aliases:
        head["aliases"] = dict(aliases)
    try:
        text = json.dumps(head, separators=(",", ":"), sort_keys=True, allow_nan=False)
        # One metadata key only: the library writes several in an order of its own.
        return safetensors.torch.save(_own_memory(stored), metadata={KEY: text})
    except (TypeError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise OutputError(f"the model cannot be stored as safetensors: {error}.") from error


def parse(data: bytes, metadata: Mapping[str, str]) -> Contents:
    """(weights, packed, aliases, meta) of the bytes of a robustq file. Raises InputFileError naming the tensor."""
    head = read_head(metadata)
    stored = read_tensors(data)
    weights = dict(stored)
    packed: dict[str, Packed] = {}
    for name, entry in head["tensors"].items():
        prefix = f"{name}{SEPARATOR}"
        payload = {key[len(prefix) :]: weights.pop(key) for key in stored if key.startswith(prefix) and key in weights}
        packed[name] = _decode(name, entry, payload)
    for name in packed:
        if name in weights:
            raise InputFileError(f"tensor {name!r} is stored twice: packed and as it was.", _DAMAGED)
    aliases = head["aliases"]
    for name, holder in aliases.items():
        if name in weights or name in packed or not (holder in weights or holder in packed):
            raise InputFileError(f"tensor {name!r} is tied to {holder!r}, which does not fit the file.", _DAMAGED)
    return weights, packed, aliases, {**head["meta"], "tool": head["tool"]}


def read_head(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The table in the metadata, every entry of the right type. Raises InputFileError."""
    try:
        head = json.loads(metadata[KEY])
    except (ValueError, TypeError, RecursionError) as error:
        raise InputFileError(f"the robustq metadata is not JSON: {error}.", _DAMAGED) from None
    number = head.get("format") if isinstance(head, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputFileError(f"the robustq format number is {number!r}, not {FORMAT}.", _DAMAGED)
    if number > FORMAT:
        raise InputFileError(
            f"the file has robustq format {number}; this robustq reads up to {FORMAT}.",
            f"It was written by {head.get('tool')!r}: install that version or a newer one.",
        )
    head = {"tensors": {}, "aliases": {}, "meta": {}, "tool": "", **head}
    tables = [head["tensors"], head["aliases"], head["meta"]]
    if not all(isinstance(table, dict) for table in tables) or not isinstance(head["tool"], str):
        raise InputFileError("the robustq metadata has an entry of the wrong type.", _DAMAGED)
    if not all(isinstance(holder, str) for holder in head["aliases"].values()):
        raise InputFileError("the aliases in the robustq metadata are not names.", _DAMAGED)
    provenance.check(head["meta"])
    return head


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name: the library's own order is another in each process.

    Raises InputFileError.
    """
    try:
        return dict(sorted(safetensors.torch.load(data).items()))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputFileError(f"the safetensors file cannot be read: {error}.", _DAMAGED) from None


def _decode(name: str, entry: Any, payload: dict[str, Tensor]) -> Packed:
    where = f"packed tensor {name!r}"
    if not isinstance(entry, dict) or entry.get("scheme") not in SCHEMES:
        scheme = entry.get("scheme") if isinstance(entry, dict) else entry
        raise InputFileError(f"{where} has the scheme {scheme!r}; known are {', '.join(SCHEMES)}.", _DAMAGED)
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise InputFileError(f"{where} has the shape {shape!r}, not a list of sizes.", _DAMAGED)
    size, stored = math.prod(shape), sum(part.numel() * part.element_size() for part in payload.values())
    if size > max(MAX_SMALL, MAX_EXPANSION * stored):
        raise InputFileError(f"{where} declares {size} weights, but {stored} bytes are stored.", _DAMAGED)
    try:
        check_finite({f"{name}{SEPARATOR}{part}": value for part, value in payload.items()})
        tensor = SCHEMES[entry["scheme"]].decode(tuple(shape), entry, payload)
    except InputFileError as error:
        place = f"{where} ({entry['scheme']}, shape {shape})"
        raise InputFileError(f"{place}: {error.problem}", error.remedy or _DAMAGED) from None
    return tensor


def _own_memory(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory or are not contiguous; each gets its own where they do."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, given in stored.items():
        value = given.cpu().contiguous()
        pointer = value.untyped_storage().data_ptr()
        result[name] = value.clone() if pointer in seen and value.numel() else value
        seen.add(pointer)
    return result
