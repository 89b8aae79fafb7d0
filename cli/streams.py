"""`-`: models read from standard input and written to standard output."""

import os
import stat
import sys
import tempfile
from typing import BinaryIO

from robustq.core.errors import InputFileError, OptionError, OutputError


def source(path: str) -> "str | BinaryIO":
    """What core loads: the path, or standard input spooled to a file, because zip archives are read from their end."""
    if path != "-":
        return path
    if sys.stdin is None or sys.stdin.isatty():
        raise InputFileError("`-` reads a model from standard input, which is a terminal.", "Pipe a file into it.")
    spool = tempfile.SpooledTemporaryFile(max_size=1 << 26)  # noqa: SIM115  (core reads it)
    while block := sys.stdin.buffer.read(1 << 20):
        spool.write(block)
    spool.seek(0)
    return spool  # type: ignore[return-value]


def is_pipe() -> bool:
    """Whether standard output goes to another program."""
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def check_binary_output(printed: str | None) -> None:
    """Refuse a model on standard output where it cannot go: beside a document such as "json", or to a terminal."""
    if printed is not None:
        raise OptionError(
            f"--{printed} and the model both want standard output.", "Write the model to a file: -o small.safetensors."
        )
    if sys.stdout.isatty():
        raise OutputError("A model is not written to a terminal.", "Give -o FILE, or pipe it on.")


def write_binary(data: bytes) -> None:
    """All bytes to standard output."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def once(paths: list[str]) -> None:
    """Standard input can be read only once."""
    if paths.count("-") > 1:
        raise OptionError("`-` is given more than once.", "Standard input can be read only once.")
