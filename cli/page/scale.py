"""Axes: from values to places in a drawing, and where the ticks go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_HUGE, _TINY = 1e30, 1e-9  # beyond these nobody measures, but a file may hold anything


@dataclass(frozen=True)
class Scale:
    """Values in [low, high] -> places in [start, end]; logarithmic axes have values above 0."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def linear(low: float, high: float, start: float, end: float, count: int = 5) -> Scale:
    """From a round number at or below `low` to one at or above `high`, with about `count` steps of 1, 2 or 5."""
    low, high = (min(max(value, -_HUGE), _HUGE) for value in (low, high))
    if _same(low, high):
        spread = abs(low) if abs(low) > _TINY else 1.0
        low, high = low - 0.5 * spread, high + 0.5 * spread
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - round(math.log10(power))  # the step itself has one digit at most behind that of its power
    ticks = tuple(round(k * step, digits) for k in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def exact(values: Sequence[float], start: float, end: float, room: float) -> Scale:
    """From the least to the largest value, ticks at the values themselves, where those are `room` apart."""
    low, high = min(values), max(values)
    if _same(low, high):
        return linear(low, high, start, end)
    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or (value - ticks[-1]) / (high - low) * abs(end - start) >= room:
            ticks.append(value)
    return Scale(low, high, start, end, tuple(ticks))


def _same(low: float, high: float) -> bool:
    """Whether no axis can tell two values apart."""
    return not high - low > _TINY * max(abs(low), abs(high), _TINY)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Some room around [low, high], both above 0; ticks at 1, 2 and 5 times powers of ten, or at those powers alone."""
    low, high = low / 1.6, high * 1.6
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: tuple[float, ...] = ()
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        found = tuple(10.0**p * m for p in powers for m in multiples if low <= 10.0**p * m <= high)
        if len(found) <= 6:
            break
    return Scale(low, high, start, end, found[:: -(-len(found) // 6)] if found else (), log=True)
