"""Bytes of a file that may be gzip- or xz-compressed; what it is comes from its first bytes, never from its name."""

import gzip
import io
import lzma
import zlib
from pathlib import Path

from ..errors import InputFileError

SUFFIXES = ("", ".gz", ".xz")
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_LIMIT = 1 << 32  # no image data set of these formats is larger; a compressed bomb is


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed; InputFileError where it cannot be read or is truncated."""
    try:
        content = path.read_bytes()  # once and whole: it may be a pipe
        if content.startswith(_GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
                content = stream.read(_LIMIT + 1)
        elif content.startswith(_XZ):
            with lzma.LZMAFile(io.BytesIO(content)) as stream:
                content = stream.read(_LIMIT + 1)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputFileError(f"{path}: the compressed file is damaged ({error}).", "Fetch it again.") from None
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if len(content) > _LIMIT:
        raise InputFileError(f"{path}: unpacks to more than {_LIMIT} bytes.")
    return content


def find(folder: Path, *stems: str) -> Path | None:
    """The first file in the folder that has one of these names, plain or compressed."""
    for stem in stems:
        for suffix in SUFFIXES:
            if (path := folder / f"{stem}{suffix}").is_file():
                return path
    return None
