"""Data by path: the format is told by a folder's contents or a file's first bytes, never by a suffix."""

from pathlib import Path

from ..errors import InputFileError
from . import archive, cifar, compressed, folder, idx
from .arrays import Raw


def read_path(path: Path, split: str) -> Raw:
    """One split of whatever lies at the path."""
    if path.is_dir():
        return _read_folder(path, split)
    content = compressed.read_bytes(path)
    if content[:2] == b"PK":
        return archive.read_npz(content, path, split)
    if content[:3] == idx.MAGIC:
        return idx.read_file(path, split)
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content):
        return archive.read_safetensors(content, path, split)
    if content[:1] == b"\x80" or (content and any(len(content) % row == 0 for row in (3073, 3074))):
        return cifar.read_file(content, path, split)
    raise InputFileError(
        f"{path}: not a data file of a known kind ({len(content)} bytes, the first {content[:8].hex() or 'none'}).",
        "Known are .npz, .safetensors, IDX files, CIFAR batches and a folder of class folders.",
    )


def _read_folder(path: Path, split: str) -> Raw:
    if any(idx.pair(path, name) for name in idx.PREFIX):
        return idx.read_folder(path, split)
    batches = cifar.read_folder(path, split)
    return folder.read(path, split) if batches is None else batches
