"""What a check found."""

from dataclasses import dataclass
from typing import Any

from .table import Check


@dataclass(frozen=True)
class Finding:
    """One check of one model: its status, the figure in the check's unit, and a sentence (skipped: the reason).

    status  "pass", "warn", "fail" or "skipped"
    """

    check: Check
    status: str
    measured: float | None
    text: str

    def to_dict(self) -> dict[str, Any]:
        """The entry of the report."""
        entry: dict[str, Any] = {
            "id": self.check.id,
            "name": self.check.name,
            "status": self.status,
            "measured": None if self.measured is None else round(self.measured, 6),
            "threshold": self.check.fail if self.status == "fail" or self.check.warn is None else self.check.warn,
            "unit": self.check.unit,
            "reason" if self.status == "skipped" else "message": self.text,
        }
        return entry | {"remedy": self.check.remedy if self.status in ("warn", "fail") else ""}


def judged(check: Check, measured: float, text: str, lone: bool = False) -> Finding:
    """Fails above the check's `fail`, warns above its `warn`; `text` says what was measured, in numbers.

    `lone`: it rests on one image of a sample, which is too little to fail on.
    """
    if lone and check.fail is not None and measured > check.fail:
        return Finding(check, "warn", measured, text)
    if check.fail is not None and measured > check.fail:
        return Finding(check, "fail", measured, text)
    if check.warn is not None and measured > check.warn:
        return Finding(check, "warn", measured, text)
    return Finding(check, "pass", measured, text)


def skipped(check: Check, reason: str) -> Finding:
    """The check could not be made, and why."""
    return Finding(check, "skipped", None, reason)


def points(part: int, whole: int) -> float:
    """A share in points of a hundred."""
    return 100 * part / max(1, whole)
