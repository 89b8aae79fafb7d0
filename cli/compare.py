"""`robustq bench --compare A B`: two saved benchmarks instead of a new one."""

import dataclasses
from typing import TYPE_CHECKING, Any

from robustq.core.errors import OptionError

if TYPE_CHECKING:
    from robustq.core.gates import Gates
    from robustq.core.report import Report


def compare(
    paths: tuple[str, str], gates: "Gates", report: "Report", *, allow_different: bool, unused: list[Any]
) -> None:
    """Read both reports and fill this one; `unused` are the models and option groups that would not matter."""
    from robustq.core import difference, reading

    from . import streams

    for given in unused:
        refuse(given)
    streams.once(list(paths))
    before, after = (reading.read(streams.source(path)) for path in paths)
    difference.compare(before, after, gates=gates, allow_different=allow_different, report=report)


def refuse(given: Any) -> None:
    """OptionError where a model or an option of measuring was given: nothing is measured."""
    remedy = "It reads two reports and measures nothing; leave the other out."
    if isinstance(given, list) and given:
        raise OptionError(f"--compare takes no MODEL, and {given[0]} was given.", remedy)
    if dataclasses.is_dataclass(given):
        for field in dataclasses.fields(given):
            if getattr(given, field.name) != field.default:
                raise OptionError(
                    f"--compare and --{field.name.rstrip('_').replace('_', '-')} exclude each other.", remedy
                )
