"""Zip archives, as torch.save and torch.export write them: opened with care for damage and absurd sizes."""

import io
import struct
import zipfile
import zlib
from typing import BinaryIO

from .errors import InputFileError

MAX_UNPACKED = 2**30  # bytes an archive may unpack to when that is far more than its own size
DAMAGE = (  # what zipfile raises on bytes that are not what they should be
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


def open_zip(stream: BinaryIO) -> zipfile.ZipFile:
    """The zip archive in a stream; InputFileError if it is damaged or would unpack to absurd sizes."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        archive = zipfile.ZipFile(stream)
    except DAMAGE as error:
        raise InputFileError(
            f"this starts like a PyTorch checkpoint (a zip archive), but it is damaged or cut short: {error}.",
            "Copy or download it again.",
        ) from None
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(MAX_UNPACKED, 20 * size):
        raise InputFileError(
            f"this zip archive of {size} bytes would unpack to {unpacked} bytes.",
            "No checkpoint does that: the file is damaged or hostile.",
        )
    return archive


def read_entry(stream: BinaryIO, path: str) -> bytes:
    """The bytes of the first zip entry with this path inside torch's folder. Raises InputFileError."""
    with open_zip(stream) as archive:
        try:
            return archive.read(next(name for name in archive.namelist() if inner(name) == path))
        except (StopIteration, *DAMAGE) as error:
            raise InputFileError(f"{path} in the archive cannot be read: {error}.", "Copy it again.") from None


def inner(name: str) -> str:
    """The path of a zip entry without the folder that torch puts around everything."""
    return name.partition("/")[2]
