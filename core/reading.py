"""Reports read back from files, which may hold anything."""

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from . import schema
from .errors import InputFileError
from .report import SCHEMA

LIMIT = 1 << 28  # bytes; a report with images has some hundred thousand


@dataclass(frozen=True)
class Saved:
    """A report as it was saved: where from, the hash of its bytes, the document."""

    path: str
    sha256: str
    document: dict[str, Any]


def read(source: str | Path | BinaryIO) -> Saved:
    """A report that `--json` or `-o` wrote; InputFileError where it is not one, is damaged, or is of another schema."""
    path, data = _bytes(source)
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_float=_finite, parse_int=_moderate)
    except UnicodeDecodeError:
        raise InputFileError(f"{path}: not a report: it is not text.", _REMEDY) from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} in line {error.lineno}, column {error.colno}"
        raise InputFileError(f"{path}: not a report: no complete JSON ({where}).", _REMEDY) from None
    except RecursionError:
        raise InputFileError(f"{path}: not a report: nested too deeply.", _REMEDY) from None
    except ValueError as error:
        raise InputFileError(f"{path}: not a report: {error}.", _REMEDY) from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        kind = found.get("schema", "none") if isinstance(found, dict) else f"a {type(found).__name__}"
        raise InputFileError(f"{path}: its schema is {str(kind)[:80]!r}, not {SCHEMA!r}.", _REMEDY)
    try:
        wrong = schema.violation(found, _schema())
    except RecursionError:
        wrong = "it is nested too deeply"
    if not wrong and "kernels" in found and (other := {"models", "data", "threat"} & found.keys()):
        wrong = f"it measures layers, and holds {min(other)!r}"
    if wrong:
        raise InputFileError(f"{path}: a damaged report: {wrong}.", "Write it again, with the robustq that reads it.")
    return Saved(path, hashlib.sha256(data).hexdigest(), found)


_REMEDY = "Give a file that `robustq bench -o FILE` or `--json` wrote."


def _bytes(source: str | Path | BinaryIO) -> tuple[str, bytes]:
    try:
        if isinstance(source, (str, Path)):
            with open(source, "rb") as file:
                path, data = str(source), _limited(file)
        else:
            path, data = "-", _limited(source)
    except OSError as error:
        raise InputFileError(f"{source}: the report cannot be read ({error.strerror or error}).", _REMEDY) from None
    except ValueError as error:  # a name with a zero byte
        raise InputFileError(f"{source}: the report cannot be read ({error}).", _REMEDY) from None
    if len(data) > LIMIT:
        raise InputFileError(f"{path}: more than {LIMIT:,} bytes, too large for a report.", _REMEDY)
    return path, data


def _limited(file: BinaryIO) -> bytes:
    buffer = io.BytesIO()
    while len(block := file.read(1 << 20)) and buffer.tell() <= LIMIT:
        buffer.write(block)
    return buffer.getvalue()


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"it holds {text}, which JSON has not")


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) > 1e300:
        raise ValueError(f"it holds the number {text[:20]}, which is out of range")
    return value


def _moderate(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"it holds the number {text[:20]}..., which is out of range")
    return int(text)


@cache
def _schema() -> dict[str, Any]:
    return json.loads((files("robustq.core") / "data" / "report.schema.json").read_text(encoding="utf-8"))
