"""How fast packed layers are on this machine, beside other libraries: the `kernels` entries of a report."""

import time

from robustq.kernels import backend

from .benchmark import Listener
from .errors import OptionError
from .report import Report

SECONDS = 2.5  # of measuring for each setting
LIMIT = 90.0  # seconds after which no setting is begun


def kernels(report: Report, on_event: Listener | None = None, limit: float = LIMIT) -> Report:
    """Measure `robustq.kernels.measure.SHORT` in at most three minutes; the report is filled as results come.

    Baselines that are not installed and settings that were not reached are named in the report's warnings. OptionError
    where the native module is missing: times of the reference would say nothing.
    """
    if backend.native is None:
        raise OptionError(
            f"--kernels measures the native kernels, which are not there: {backend.reason}.",
            "Install robustq where there is a C++ compiler: pip install --force-reinstall --no-deps robustq.",
        )
    from robustq.kernels.measure import SHORT, table

    rows = report.content.setdefault("kernels", [])
    for step, (found, notes) in enumerate(table(SHORT, SECONDS, time.monotonic() + limit)):
        rows += found
        for note in notes:
            report.warn(note)
        if on_event:
            on_event({"kind": "step", "task": "kernels", "step": step + 1, "total": len(SHORT)})
    return report
