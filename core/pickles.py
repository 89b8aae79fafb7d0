"""Pickles without their danger: what one would import, and loading that refuses everything but plain weights."""

import io
import pickle
import pickletools
import warnings
from typing import Any, BinaryIO

import torch

from .archive import read_entry
from .errors import InputFileError, RobustqError, UnsafeFileError

LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of torch.save before 1.6
LEGACY_HEADER = 3  # pickles before the object in a checkpoint from before torch 1.6: magic, protocol, system
_DAMAGED = "The file is damaged or cut short: copy or download it again."
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}


def global_names(stream: BinaryIO) -> list[str]:
    """Every `module.name` the next pickle of the stream would import, sorted, found without running it.

    Reads up to the end of that pickle. Raises InputFileError where it is damaged.
    """
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    pushed: list[str | None] = [None, None]  # the last two things put on the stack, None for what is not a string
    try:
        for opcode, value, _ in pickletools.genops(stream):
            kind = opcode.name
            if kind in _PUTS or kind == "MEMOIZE":
                memo[len(memo) if kind == "MEMOIZE" else int(str(value))] = pushed[-1]
                continue
            if kind in ("GLOBAL", "INST"):
                found.add(_modern(str(value).replace(" ", ".", 1)))
            elif kind == "STACK_GLOBAL":
                found.add(_modern(".".join(part or "?" for part in pushed)))
            elif kind.startswith("EXT"):
                found.add(f"copyreg extension {value}")
            text = str(value) if kind in _STRINGS else memo.get(int(str(value))) if kind in _GETS else None
            pushed = [pushed[-1], text]
    except (ValueError, IndexError, UnicodeError, OverflowError) as error:
        raise InputFileError(f"the pickle cannot be read: {error}.", _DAMAGED) from None
    return sorted(found)


def object_stream(stream: BinaryIO) -> tuple[BinaryIO, int]:
    """(stream, how many pickles come first) of the pickled object in a torch.save file or a plain pickle."""
    stream.seek(0)
    head = stream.read(len(LEGACY_MAGIC))
    stream.seek(0)
    if head.startswith(b"PK"):
        return io.BytesIO(read_entry(stream, "data.pkl")), 0
    return stream, LEGACY_HEADER if head == LEGACY_MAGIC else 0


def unsafe_names(stream: BinaryIO) -> list[str]:
    """What the pickle of a file would import beyond the tensors and plain containers that torch allows."""
    inside, skip = object_stream(stream)
    names = [name for _ in range(skip + 1) for name in global_names(inside)]
    # torch.serialization.get_unsafe_globals_in_checkpoint knows zip files and old pickle protocols only.
    from torch import _weights_only_unpickler as rules

    allowed = set(rules._get_allowed_globals()) | set(rules._get_user_allowed_globals())
    return sorted({name for name in names if name not in allowed})


def refusal(names: list[str]) -> UnsafeFileError:
    """The error for a pickle that wants to import these names."""
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return UnsafeFileError(
        f"this pickle would import and run code of its own: {shown}.",
        "Ask for the plain weights (torch.save(model.state_dict(), ...) or safetensors). "
        "Only if you trust its maker with everything your account can reach: --trust-pickle runs it.",
    )


def load(stream: BinaryIO, *, trust: bool = False) -> Any:
    """Unpickle a torch.save stream on the CPU with weights_only; with `trust` run whatever the pickle asks for.

    Raises UnsafeFileError naming what weights_only refused, InputFileError where it cannot be read.
    """
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storage classes; nothing a reader can act on
            return torch.load(stream, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust:
            raise InputFileError(f"the pickle cannot be read: {_first_line(error)}", _DAMAGED) from None
        raise _refused(stream) from None
    except (ImportError, AttributeError) as error:
        raise InputFileError(
            f"the pickle needs code that is not here: {_first_line(error)}.",
            "Put the folder of that module on PYTHONPATH, or ask for the plain state dict.",
        ) from None
    except MemoryError:
        raise InputFileError("the checkpoint declares more data than there is memory.", _DAMAGED) from None
    except Exception as error:
        # Damaged input makes torch raise almost anything; a trusted pickle may raise anything at all.
        raise InputFileError(f"the checkpoint cannot be read: {_first_line(error)}", _DAMAGED) from None


def _refused(stream: BinaryIO) -> RobustqError:
    names = unsafe_names(stream)
    if names:
        return refusal(names)
    return InputFileError(
        "the pickle is damaged, or of a kind that plain weights never need.",
        "Save the plain weights: torch.save(model.state_dict(), ...).",
    )


def load_plain(stream: BinaryIO, *, trust: bool = False) -> Any:
    """Run a pickle that torch.save did not write, if it is trusted. Raises UnsafeFileError or InputFileError."""
    names = unsafe_names(stream)
    if names and not trust:
        raise refusal(names)
    if not trust:
        raise InputFileError("this is a plain Python pickle without tensors.", "Save with torch.save.")
    stream.seek(0)
    try:
        return pickle.load(stream)
    except Exception as error:  # a trusted pickle may raise anything at all
        raise InputFileError(f"the pickle cannot be read: {_first_line(error)}", _DAMAGED) from None


def _modern(name: str) -> str:
    """Old pickle protocols call the module `builtins` by its Python 2 name."""
    return name.replace("__builtin__.", "builtins.", 1) if name.startswith("__builtin__.") else name


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
