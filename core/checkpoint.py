"""Checkpoints: any file of weights in, one self-describing file out."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from . import container, files, pickles, program, sniff
from .errors import InputFileError, RobustqError
from .packed import Packed
from .unwrap import check_finite, check_stored, untie, unwrap

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
        digest, size = digest_of(stream)
        source_of = Source(place, kind, digest, size)
        if kind == "robustq":
            weights, packed, aliases, meta = read_own(stream)
            check_finite(weights)
            return Checkpoint(weights, packed, aliases, meta, source_of)
        weights, notes = read_weights(stream, kind, trust_pickle)
        check_stored(weights)
        check_finite(weights)
        weights, aliases = untie(weights)
        return Checkpoint(weights, {}, aliases, {}, replace(source_of, notes=tuple(notes)))


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


def read_own(stream: BinaryIO) -> container.Contents:
    """(weights, packed, aliases, meta) of a robustq file, not yet checked for NaN."""
    metadata = sniff.read_header(stream)[1]
    return container.parse(stream.read(), metadata)


def read_weights(stream: BinaryIO, kind: str, trust: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """(state dict, notes) of any other kind of file, not yet checked for NaN, tied tensors or sizes."""
    stream.seek(0)
    found, notes = (
        (container.read_tensors(stream.read()), []) if kind == "safetensors" else _unpickled(stream, kind, trust)
    )
    weights, more = unwrap(found)
    return weights, [*notes, *more]


def _unpickled(stream: BinaryIO, kind: str, trust: bool) -> tuple[Any, list[str]]:
    if kind == "pt2":
        return program.read(stream)
    if kind in ("torch", "torch-legacy"):
        return pickles.load(stream, trust=trust), []
    if kind == "pickle":
        return pickles.load_plain(stream, trust=trust), []
    raise InputFileError(
        f"this is {sniff.KINDS[kind]}, which is not a checkpoint robustq reads.",
        _INSTEAD.get(kind, "robustq reads .pt, .pth, .th (torch.save), .safetensors, .pt2 and its own files."),
    )


def sha256(path: Path) -> str:
    """The hash of a file. Raises InputFileError where it cannot be read."""
    with opened(path) as (stream, place), located(place):
        return digest_of(stream)[0]


def digest_of(stream: BinaryIO) -> tuple[str, int]:
    """(SHA-256 in hex, bytes) of a stream, which is left at its start."""
    digest, size = hashlib.sha256(), 0
    stream.seek(0)
    while block := stream.read(1 << 20):
        digest.update(block)
        size += len(block)
    stream.seek(0)
    return digest.hexdigest(), size
