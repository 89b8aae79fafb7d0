"""Checkpoints: any file of weights in, one self-describing file out."""

import hashlib
import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from . import container, files, pickles, program, sniff
from .errors import InputFileError, RobustqError
from .packed import Packed
from .unwrap import check, check_finite, untie, unwrap

_INSTEAD = {
    "onnx": "Give the PyTorch checkpoint or safetensors file it was made from.",
    "torchscript": "Save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt').",
    "numpy": "A checkpoint is a .pt, .pth, .safetensors or .pt2 file; data sets go to --data.",
    "npz": "A checkpoint is a .pt, .pth, .safetensors or .pt2 file; data sets go to --data.",
    "gzip": "Decompress it first: gunzip FILE.",
    "xz": "Decompress it first: xz -d FILE.",
    "bzip2": "Decompress it first: bunzip2 FILE.",
    "zstd": "Decompress it first: zstd -d FILE.",
    "tar": "Unpack it first: tar -xf FILE.",
    "zip": "Unpack it first: unzip FILE.",
    "git-lfs": "Fetch the file itself: git lfs pull.",
    "html": "Download the file again.",
    "empty": "Copy or download it again.",
}


@dataclass(frozen=True)
class Source:
    """Where a checkpoint came from."""

    path: str  # "-" for a stream
    kind: str  # a key of sniff.KINDS
    sha256: str
    bytes: int
    notes: tuple[str, ...] = ()  # what was unwrapped or left out


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors and where they come from.

    weights everything that is not packed, as stored (buffers included)
    packed  compressed tensors
    aliases tied tensors: name -> name that holds the data
    meta    JSON values: "arch", "normalization", "data", "parent", "methods", "keep_fp", "recipe", "tool"
    """

    weights: dict[str, Tensor]
    packed: dict[str, Packed]
    aliases: dict[str, str]
    meta: dict[str, Any]
    source: Source = field(default=Source("-", "memory", "", 0))

    def dense(self) -> dict[str, Tensor]:
        """The full state dict: float32 where packed, as stored elsewhere, tied tensors shared."""
        full = dict(self.weights) | {name: tensor.dense() for name, tensor in self.packed.items()}
        return full | {name: full[holder] for name, holder in self.aliases.items()}


def load(source: str | Path | BinaryIO, *, trust_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint of any kind from a path or a stream, on the CPU, running nothing that is in it.

    `trust_pickle` runs what a pickle asks for, so that a pickled nn.Module gives its state dict. Raises
    InputFileError (missing, unreadable, damaged, wrong kind), UnsafeFileError (a pickle that would run code) and
    WeightError (NaN or Inf), each naming the file.
    """
    with opened(source) as (stream, place), located(place):
        kind = sniff.sniff(stream)
        digest, size = _digest(stream)
        if kind in ("robustq", "safetensors"):
            return _from_safetensors(stream, Source(place, kind, digest, size))
        found, notes = _unpickled(stream, kind, trust_pickle)
        weights, more = unwrap(found)
        check(weights)
        weights, aliases = untie(weights)
        return Checkpoint(weights, {}, aliases, {}, Source(place, kind, digest, size, (*notes, *more)))


def dumps(checkpoint: Checkpoint) -> bytes:
    """The checkpoint as the bytes of a robustq file; the same checkpoint always gives the same bytes."""
    return container.dump(checkpoint.weights, checkpoint.packed, checkpoint.aliases, checkpoint.meta)


def save(checkpoint: Checkpoint, path: str | Path, *, force: bool = False) -> int:
    """Write a robustq file, whole or not at all; returns its bytes. Raises OutputError."""
    files.check_output(path, force)
    return files.write(path, dumps(checkpoint), force)


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    """(seekable stream, its name) of a path or a stream. Raises InputFileError where it cannot be read."""
    if not isinstance(source, (str, Path)):
        yield (source if source.seekable() else io.BytesIO(source.read())), "-"
        return
    place = str(source)
    try:
        stream = Path(source).open("rb")  # noqa: SIM115 (closed below; opening alone must be inside the try)
    except IsADirectoryError:
        raise InputFileError(f"{place} is a folder, not a checkpoint.", "Give the file inside it.") from None
    except FileNotFoundError:
        raise InputFileError(f"{place} does not exist.", "Check the path.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputFileError(f"{place} cannot be read: {reason}.", "Check its permissions.") from None
    with stream:
        yield (stream if stream.seekable() else io.BytesIO(stream.read())), place


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put the file's name in front of what is wrong with it."""
    try:
        yield
    except RobustqError as error:
        raise type(error)(f"{place}: {error.problem}", error.remedy) from error.__cause__
    except OSError as error:
        raise InputFileError(f"{place} cannot be read: {error.strerror or error}.") from error


def unsafe(stream: BinaryIO, kind: str) -> list[str]:
    """The names a file's pickles would import beyond plain weights, found without running them."""
    stream.seek(0)
    if kind in ("torch", "torch-legacy", "pickle"):
        if kind != "torch":
            return pickles.unsafe_names(stream, pickles.LEGACY_HEADER if kind == "torch-legacy" else 0)
        with sniff.open_zip(stream) as archive:
            name = next(name for name in archive.namelist() if sniff.inner(name) == "data.pkl")
            return pickles.unsafe_names(io.BytesIO(archive.read(name)))
    return []


def _from_safetensors(stream: BinaryIO, source: Source) -> Checkpoint:
    metadata = sniff.read_header(stream)[1]
    data = stream.read()
    if source.kind == "robustq":
        weights, packed, aliases, meta = container.parse(data, metadata)
        for name, value in weights.items():
            check_finite(name, value)
        return Checkpoint(weights, packed, aliases, meta, source)
    weights, notes = unwrap(container.read_tensors(data))
    check(weights)
    return Checkpoint(weights, {}, {}, {}, Source(source.path, source.kind, source.sha256, source.bytes, tuple(notes)))


def _unpickled(stream: BinaryIO, kind: str, trust: bool) -> tuple[Any, list[str]]:
    try:
        if kind == "pt2":
            return program.read(stream)
        if kind in ("torch", "torch-legacy"):
            return pickles.load(stream, trust=trust), []
    except pickle.UnpicklingError:
        names = unsafe(stream, kind)
        if names:
            raise pickles.refusal(names) from None
        raise InputFileError(
            "the pickle is damaged, or of a kind that plain weights never need.",
            "Save the plain weights: torch.save(model.state_dict(), ...).",
        ) from None
    if kind == "pickle":
        return _plain_pickle(stream, trust), []
    raise InputFileError(
        f"this is {sniff.KINDS[kind]}, which is not a checkpoint robustq reads.",
        _INSTEAD.get(kind, "robustq reads .pt, .pth, .th (torch.save), .safetensors, .pt2 and its own files."),
    )


def _plain_pickle(stream: BinaryIO, trust: bool) -> Any:
    names = unsafe(stream, "pickle")
    if not trust and names:
        raise pickles.refusal(names)
    if not trust:
        raise InputFileError("this is a plain Python pickle without tensors.", "Save with torch.save.")
    return pickles.load_plain(stream)


def _digest(stream: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
        size += len(block)
    stream.seek(0)
    return digest.hexdigest(), size
