"""What kind of file this is, from its bytes. A name never decides anything."""

import io
import json
import struct
from typing import Any, BinaryIO

from . import pickles
from .archive import inner, open_zip
from .errors import InputFileError

MAX_HEADER = 100_000_000  # the safetensors library's own limit
HEAD = 512

KINDS = {
    "robustq": "a robustq file",
    "safetensors": "a safetensors file",
    "torch": "a PyTorch checkpoint",
    "torch-legacy": "a PyTorch checkpoint in the format before 1.6",
    "pt2": "a torch.export program",
    "torchscript": "a TorchScript program",
    "onnx": "an ONNX model",
    "pickle": "a plain Python pickle",
    "numpy": "a NumPy array",
    "npz": "a NumPy archive",
    "zip": "a zip archive without a model in it",
    "gzip": "gzip-compressed data",
    "xz": "xz-compressed data",
    "bzip2": "bzip2-compressed data",
    "zstd": "zstd-compressed data",
    "tar": "a tar archive",
    "hdf5": "an HDF5 file (Keras?)",
    "gguf": "a GGUF file",
    "html": "a web page (a failed download?)",
    "git-lfs": "a Git LFS pointer, not the file it points at",
    "text": "plain text",
    "empty": "an empty file",
    "unknown": "of no kind that is known here",
}

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x93NUMPY", "numpy"),
    (b"\x89HDF\r\n", "hdf5"),
    (b"GGUF", "gguf"),
    (b"version https://git-lfs", "git-lfs"),
    (pickles.LEGACY_MAGIC, "torch-legacy"),
)


def sniff(stream: BinaryIO) -> str:
    """The kind (a key of KINDS) of a seekable stream, which is left at its start.

    Raises InputFileError for a safetensors or zip file that is damaged, cut short, or would unpack to absurd sizes.
    """
    stream.seek(0)
    head = stream.read(HEAD)
    stream.seek(0)
    if not head:
        return "empty"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(stream)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[8:9] == b"{":
        return "robustq" if "robustq" in read_header(stream)[1] else "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    if (head[0] == 0x80 and head[1:2] <= b"\x05") or _is_text_pickle(stream, head):
        return "pickle"
    if head[0] == 0x08 and len(head) > 3 and head[1] < 0x40 and head[2] in (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42):
        return "onnx"  # protobuf: field 1 (IR version), then one of fields 2 to 8
    return _text_kind(head)


def read_header(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, str]]:
    """(tensor entries, metadata) of the safetensors header; the stream is left at its start."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    first = stream.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if length > min(MAX_HEADER, size - 8):
        limit = f"the file has {size} bytes" if length > size - 8 else f"at most {MAX_HEADER} are allowed"
        stream.seek(0)
        raise InputFileError(
            f"the safetensors header says it is {length} bytes long, but {limit}.",
            "The file is cut short or damaged: copy or download it again.",
        )
    text = stream.read(length)
    stream.seek(0)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict):
            raise TypeError("__metadata__ is not a table")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputFileError(f"the safetensors header cannot be read: {error}.", "The file is damaged.") from None
    return entries, metadata


def _zip_kind(stream: BinaryIO) -> str:
    with open_zip(stream) as archive:
        names = archive.namelist()
    stream.seek(0)
    paths = {inner(name) for name in names}
    if any(path.startswith("code/") for path in paths) or "constants.pkl" in paths:
        return "torchscript"
    if "archive_format" in paths or any(p.startswith("models/") and p.endswith(".json") for p in paths):
        return "pt2"
    if "data.pkl" in paths:
        return "torch"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"


def _is_text_pickle(stream: BinaryIO, head: bytes) -> bool:
    """Pickles of protocol 0 are plain text and start with any of several letters."""
    if head[0] not in b"c(]}l":
        return False
    try:
        return bool(pickles.global_names(stream))
    except InputFileError:
        return False
    finally:
        stream.seek(0)


def _text_kind(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    return "text" if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head) else "unknown"
