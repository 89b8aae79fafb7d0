"""Gates: what a benchmark must reach for the command to succeed. A missed gate is exit status 1, the report written."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import OptionError
from .option import number


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Bounds on every model of a benchmark; None asks for nothing.

    min_acc         clean accuracy, a fraction in [0, 1]
    min_robust_acc  worst-case accuracy over the attacks, a fraction in [0, 1]
    max_drop        loss of clean and of worst-case accuracy against the model's baseline, a fraction in [0, 1]
    max_bytes       size on disk, of models that are not another one's float parent
    """

    min_acc: float | None = None
    min_robust_acc: float | None = None
    max_drop: float | None = None
    max_bytes: int | None = None

    @classmethod
    def parse(
        cls, min_acc: str | None, min_robust_acc: str | None, max_drop: str | None, max_bytes: str | None
    ) -> "Gates":
        """Gates from text such as "0.5", "85/100" or "120000"; OptionError naming the flag."""
        return cls(
            min_acc=_fraction("--min-acc", min_acc),
            min_robust_acc=_fraction("--min-robust-acc", min_robust_acc),
            max_drop=_fraction("--max-drop", max_drop),
            max_bytes=_bytes("--max-bytes", max_bytes),
        )

    def missed(
        self,
        models: Sequence[Mapping[str, Any]],
        baselines: Mapping[str, Mapping[str, Any]] | None = None,
        parents: Collection[str] = (),
    ) -> list[str]:
        """One line for each gate a model misses; `models` are the report's entries.

        baselines  name of a model -> the entry it is compared with by `max_drop`
        parents    names of models that others were made from: `max_bytes` is not for them
        """
        lines: list[str] = []
        for model in models:
            lines += self._bounds(model, model["name"] in parents)
            reference = (baselines or {}).get(model["name"])
            if reference is not None and self.max_drop is not None:
                lines += self._drops(model, reference, self.max_drop)
        return lines

    def _bounds(self, model: Mapping[str, Any], is_parent: bool) -> list[str]:
        found: list[str] = []
        clean, worst, size = model["clean"]["value"], (model.get("worst_case") or {}).get("value"), model["bytes"]
        if self.min_acc is not None and clean < self.min_acc:
            found.append(f"{model['name']}: clean accuracy {clean:.4f} is below --min-acc {self.min_acc:g}")
        if self.min_robust_acc is not None and worst is not None and worst < self.min_robust_acc:
            found.append(
                f"{model['name']}: worst-case accuracy {worst:.4f} is below --min-robust-acc {self.min_robust_acc:g}"
            )
        if self.max_bytes is not None and not is_parent and size > self.max_bytes:
            found.append(f"{model['name']}: {size} bytes are more than --max-bytes {self.max_bytes}")
        return found

    def _drops(self, model: Mapping[str, Any], reference: Mapping[str, Any], most: float) -> list[str]:
        found: list[str] = []
        for key, what in (("clean", "clean"), ("worst_case", "worst-case")):
            if not model.get(key) or not reference.get(key):
                continue
            drop = reference[key]["value"] - model[key]["value"]
            if drop > most + 1e-9:  # accuracies are rounded to six digits
                found.append(
                    f"{model['name']}: {what} accuracy is {drop:.4f} below {reference['name']}, "
                    f"more than --max-drop {most:g}"
                )
        return found


def _fraction(flag: str, text: str | None) -> float | None:
    if text is None:
        return None
    value = number(text, flag)
    if not 0 <= value <= 1:
        raise OptionError(f"{flag} is {text}, outside [0, 1].", f"Accuracies are fractions: {flag} {value / 100:g}.")
    return value


def _bytes(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    value = number(text, flag)
    if value != int(value) or value < 0:
        raise OptionError(f"{flag} is {text}, not a number of bytes.", f"Write a whole number: {flag} 85000.")
    return int(value)
