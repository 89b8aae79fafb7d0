"""The report of every command, success or failure: one JSON document, schema `robustq.report/1` (docs/report.md).

Tables, Markdown and plots are rendered from it; nothing is shown that is not in it.
"""

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import Exit, RobustqError

SCHEMA = "robustq.report/1"
_Z95 = 1.959963984540054  # two-sided 95% quantile of the standard normal


@dataclass(frozen=True)
class Proportion:
    """`hits` of `n`: an accuracy with its 95% Wilson score interval (Wilson 1927)."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        return self.hits / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Lower and upper end, both in [0, 1]."""
        if not self.n:
            return 0.0, 1.0
        p, z2 = self.value, _Z95**2
        centre = (p + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = _Z95 * math.sqrt(p * (1 - p) / self.n + z2 / (4 * self.n**2)) / (1 + z2 / self.n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.ci95
        return {"value": round(self.value, 6), "ci95": [round(low, 6), round(high, 6)], "n": self.n}


@dataclass
class Report:
    """What one command did. `content` holds the entries of the command (`models`, `layers`, `files`, ...)."""

    command: str
    recipe: dict[str, Any] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    status: str = "ok"
    exit_code: int = Exit.OK
    error: dict[str, str] | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Report":
        """The report of a document that `reading.read` has checked."""
        given = {f.name: document[f.name] for f in fields(cls) if f.name in document}
        content = {key: value for key, value in document.items() if key not in given and key != "schema"}
        return cls(**{**given, "content": content})

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def fail(self, error: RobustqError) -> None:
        """Record an error and its exit status."""
        self.status, self.exit_code = "error", int(error.exit_code)
        self.error = {"type": type(error).__name__, "problem": error.problem, "remedy": error.remedy}

    def miss(self, gate: str) -> None:
        """Record a missed gate (`--min-acc 0.9: 0.853`)."""
        self.status, self.exit_code = "gate missed", int(Exit.GATE)
        self.content.setdefault("gates_missed", []).append(gate)

    def expire(self, unfinished: str) -> None:
        """Record that the time limit was reached; a gate that is missed beside is recorded too."""
        self.status, self.exit_code = "time limit", int(Exit.TIME_LIMIT)
        self.warn(unfinished)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "recipe": self.recipe,
            "environment": self.environment or environment(),
            "warnings": self.warnings,
            "error": self.error,
            **self.content,
        }

    def to_json(self) -> str:
        """One JSON document; NaN and Infinity, which JSON has not, become null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False, default=str)


def environment() -> dict[str, Any]:
    """Versions, hardware and the state of the native kernels. Does not import torch if nothing has yet."""
    import sys
    from importlib.metadata import version

    result: dict[str, Any] = {
        "robustq": version("robustq"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
    }
    if "torch" in sys.modules:
        import torch

        from robustq.kernels import status

        result |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "kernels": status()}
        if torch.cuda.is_available():
            result["gpu"] = torch.cuda.get_device_name()
    return result


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value
