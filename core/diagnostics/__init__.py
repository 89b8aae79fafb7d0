"""Would a reviewer believe the number? Checks of a model and of the attacks it stood; docs/checks.md lists them."""

from .evidence import Evidence
from .finding import Finding
from .running import MODES, run
from .table import CHECKS, Check

__all__ = ["CHECKS", "MODES", "Check", "Evidence", "Finding", "run"]
