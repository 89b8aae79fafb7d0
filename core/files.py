"""Output files are written whole or not at all."""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from .errors import OutputError


def check_output(path: str | Path, force: bool = False) -> None:
    """Raise OutputError now, before long work, if `path` cannot be written or exists already (without `force`)."""
    try:
        _check(Path(path), force)
    except OSError as error:  # a folder on the way that may not be entered, a name too long
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.", _remedy(error)) from error


def write(path: str | Path, data: bytes, force: bool = False) -> int:
    """Write all bytes to `path` or leave everything as it was; returns their number.

    The bytes go to a new file in the same folder, which takes the name only when it is safely on disk. A device or
    a named pipe is written directly. Raises OutputError naming the path and what to do.
    """
    check_output(path, force)
    place = Path(os.path.realpath(path))  # a link keeps pointing at the new content
    try:
        if place.exists() and not place.is_file():
            with place.open("wb") as stream:
                stream.write(data)
        else:
            _replace(place, data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.", _remedy(error)) from error
    return len(data)


def _check(place: Path, force: bool) -> None:
    if place.is_dir():
        raise OutputError(f"{place} is a folder.", "Give the name of a file.")
    if not place.exists():
        folder = place.parent
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "does not exist"
            raise OutputError(f"{place} cannot be written: {folder} {problem}.", "Make the folder, or choose another.")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{place} cannot be written: {folder} is read-only.", "Choose another folder.")
    elif place.is_file() and not force:
        raise OutputError(f"{place} exists already.", "Choose another name, or replace it with --force.")


def _replace(place: Path, data: bytes) -> None:
    temporary = place.with_name(f".robustq-{secrets.token_hex(8)}.part")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, place)
    except BaseException:  # Ctrl-C included: nothing half-written stays behind
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free some space, or choose a place on another disk. Nothing was left behind."
    return "Choose a place that can be written."
