"""A limit on the time that an evaluation may take."""

import re
import time

from .errors import OptionError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class TimeIsUp(Exception):  # noqa: N818 - not an error: the evaluation catches it
    """Raised between two steps of an attack, to leave it."""


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @classmethod
    def parse(cls, text: str | None) -> "Deadline | None":
        """ "90", "90s", "10m" or "2h"; OptionError for anything else."""
        if text is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([smh]?)", text.strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if seconds <= 0:
            raise OptionError(f"--time-limit is {text!r}.", "Write a time above 0: 90 (seconds), 10m, 2h.")
        return cls(seconds)

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def check(self) -> None:
        """TimeIsUp if it has passed."""
        if self.passed:
            raise TimeIsUp
