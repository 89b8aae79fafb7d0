"""Pickles without their danger: what one would import, and loading that refuses everything but plain weights."""

import pickle
import pickletools
import warnings
from typing import Any, BinaryIO

import torch

from .errors import InputFileError, UnsafeFileError

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
                memo[len(memo) if kind == "MEMOIZE" else int(value)] = pushed[-1]
                continue
            if kind in ("GLOBAL", "INST"):
                found.add(str(value).replace(" ", ".", 1))
            elif kind == "STACK_GLOBAL":
                found.add(".".join(part or "?" for part in pushed[-2:]))
            elif kind.startswith("EXT"):
                found.add(f"copyreg extension {value}")
            text = value if kind in _STRINGS else memo.get(int(value)) if kind in _GETS else None
            pushed = [pushed[-1], str(text) if text is not None else None]
    except (ValueError, IndexError, UnicodeError, OverflowError) as error:
        raise InputFileError(f"the pickle cannot be read: {error}.", _DAMAGED) from None
    return sorted(found)


def unsafe_names(stream: BinaryIO, skip: int = 0) -> list[str]:
    """What a pickle would import beyond the tensors and plain containers that torch allows; `skip` pickles come first.

    The stream is left wherever the pickle ends.
    """
    names = [name for _ in range(skip + 1) for name in global_names(stream)]
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
        "If you trust whoever made the file with your account, --trust-pickle runs it.",
    )


def load(stream: BinaryIO, *, trust: bool = False) -> Any:
    """Unpickle a torch.save stream on the CPU with weights_only; with `trust` run whatever the pickle asks for.

    Raises InputFileError where it cannot be read; `pickle.UnpicklingError` where weights_only refused it.
    """
    stream.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storage classes; nothing a reader can act on
            return torch.load(stream, map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as error:
        if trust:
            raise InputFileError(f"the pickle cannot be read: {_first_line(error)}", _DAMAGED) from None
        raise
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


def load_plain(stream: BinaryIO) -> Any:
    """Run a pickle that was not written by torch.save; only for one the user trusts. Raises InputFileError."""
    stream.seek(0)
    try:
        return pickle.load(stream)
    except Exception as error:  # a trusted pickle may raise anything at all
        raise InputFileError(f"the pickle cannot be read: {_first_line(error)}", _DAMAGED) from None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
