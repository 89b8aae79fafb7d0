"""Which channels stand and fall together: every channel of every value belongs to a slot, and slots are united."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """The channels (second axis) of one value of the network.

    ids       (n,) int64, the slot of each channel
    constant  (n,) float64: what the channel is at every place for every image, NaN where it varies
    """

    ids: Tensor
    constant: Tensor


@dataclass
class Slots:
    """A union-find over channel slots; `kept` says why a slot must stay."""

    parent: list[int] = field(default_factory=list)
    _kept: dict[int, str] = field(default_factory=dict)

    def fresh(self, count: int) -> Tensor:
        """(count,) new slots."""
        begun = len(self.parent)
        self.parent.extend(range(begun, begun + count))
        return torch.arange(begun, begun + count)

    def root(self, slot: int) -> int:
        while self.parent[slot] != slot:
            self.parent[slot] = self.parent[self.parent[slot]]
            slot = self.parent[slot]
        return slot

    def roots(self, ids: Tensor) -> Tensor:
        """ids (n,) -> (n,), the slot that stands for each one's class."""
        return torch.tensor([self.root(slot) for slot in ids.tolist()], dtype=torch.int64)

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Channel i of the one goes only where channel i of the other goes."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self.parent[self.root(a)] = self.root(b)

    def keep(self, ids: Tensor, why: str) -> None:
        """None of these may be removed."""
        for slot in ids.tolist():
            self._kept.setdefault(slot, why)

    def kept(self) -> dict[int, str]:
        """Class -> why it must stay."""
        found: dict[int, str] = {}
        for slot, why in sorted(self._kept.items()):
            found.setdefault(self.root(slot), why)
        return found


def varying(count: int) -> Tensor:
    """(count,) constants of channels that are none."""
    return torch.full((count,), float("nan"), dtype=torch.float64)


def joined(values: Iterable[Value]) -> Value:
    """The channels of several values, one after the other."""
    parts = list(values)
    return Value(torch.cat([v.ids for v in parts]), torch.cat([v.constant for v in parts]))
