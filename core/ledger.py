"""The state folder of a long evaluation: a run that was stopped goes on from the parts that it had finished.

    DIR/run.json                     what the run consists of: models, data, attacks, seed, ... by hash or by value
    DIR/<job>-<first image>.safetensors   one `Piece`: an attack's results on one part of the images

Every file is written whole or not at all. A folder belongs to one run: another one is refused, never mixed in.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files, registry
from .attacks.attack import Attack
from .errors import InputFileError, OptionError, OutputError
from .pieces import Piece

_SCHEMA = "robustq.state/1"


class Ledger:
    """The folder of one run, which `identity` (JSON values) describes; made where there is none.

    Raises OptionError naming what differs where the folder belongs to another run, OutputError where it cannot be
    made or holds other things, InputFileError where it cannot be read.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        now = json.loads(json.dumps({"schema": _SCHEMA, **identity}))
        record = self.folder / "run.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = record.exists()
            strangers = [] if known else [p.name for p in self.folder.iterdir() if not _is_own(p.name)]
        except OSError as error:
            raise OutputError(f"--state {folder} cannot be used: {error.strerror or error}.") from None
        if strangers:
            raise OutputError(
                f"--state {folder} holds other things, such as {min(strangers)}.", "Name an empty folder."
            )
        if known:
            self._check(record, now)
        else:
            files.write(record, (json.dumps(now, indent=1) + "\n").encode(), force=True)

    def _check(self, record: Path, now: dict[str, Any]) -> None:
        try:
            saved = json.loads(record.read_text())
        except (OSError, ValueError) as error:
            raise InputFileError(f"{record} cannot be read: {error}.", "Name another folder with --state.") from None
        changes = differences(saved, now)
        if changes:
            raise OptionError(
                f"--state {self.folder} belongs to another run: {'; '.join(changes[:3])}.",
                "Repeat that run's command, or name another folder.",
            )

    def known(self, job: str, first: int) -> Piece | None:
        """The results of a job on the part that begins with image `first`, if they are there."""
        place = self._place(job, first)
        return Piece.read(str(place)) if place.exists() else None

    def keep(self, job: str, first: int, piece: Piece) -> None:
        """Store them."""
        files.write(self._place(job, first), piece.to_bytes(), force=True)

    def _place(self, job: str, first: int) -> Path:
        """A job's name may hold anything; its hash keeps apart what looks alike in a file name."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", job)[:60]
        return self.folder / f"{plain}-{_digest(job.encode())[:8]}-{first:07d}.safetensors"


def described(attack: Attack) -> dict[str, Any]:
    """An attack as a state folder knows it: its resolved options, those of its members, and the files it reads."""
    members = attack.members if len(attack.members) > 1 else ()
    return {
        "name": registry.name_of(attack),
        "options": attack.options(),
        "radius": attack.radius,
        "members": [described(member) for member in members],
        "files": {path: _digest(Path(path).read_bytes()) for path in attack.files_read if os.path.isfile(path)},
    }


def differences(saved: Any, now: Any, place: str = "") -> list[str]:
    """What differs between two JSON values, as "place is a there, b here"."""
    if isinstance(saved, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*saved, *now]))
        return [d for k in keys for d in differences(saved.get(k), now.get(k), f"{place} {k}".strip())]
    return [] if saved == now else [f"{place} is {_short(saved)} there, {_short(now)} here"]


def _short(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:16]}..."


def _is_own(name: str) -> bool:
    """Whether a file may lie in a folder whose record is just being written, by this process or another of its run."""
    return name == "run.json" or name.startswith(".robustq-")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
