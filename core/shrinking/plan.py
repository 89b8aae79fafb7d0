"""Which channels go, such that every layer that stays computes what it did."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .flow import Flow
from .layers import Reader


@dataclass(frozen=True)
class Merged:
    """Constant channels that a padded convolution reads: at the border they are none, so no bias can replace them.

    What they contribute is that of one constant channel with another kernel. So those in `stays` take over the kernels
    of all of them: one, or two where kernels are rounded, the second for what rounding left of the first.
    """

    stays: tuple[int, ...]
    removed: frozenset[int]


@dataclass(frozen=True)
class Plan:
    """removed: classes of slots; merged: layer -> what its columns take over; stay: reason -> zero channels kept."""

    removed: frozenset[int]
    merged: dict[str, list[Merged]]
    stay: dict[str, int]


def make(flow: Flow, weights: Mapping[str, Tensor], rounded: Mapping[str, bool]) -> Plan:
    """weights: layer -> (out, columns, ...) of each that mixes channels; rounded: layer -> whether its values are
    stored in less than 32 bits. Layers that are not in `rounded` hold codes, which cannot take over anything.
    """
    return _Planner(flow, weights, rounded).plan()


class _Planner:
    def __init__(self, flow: Flow, weights: Mapping[str, Tensor], rounded: Mapping[str, bool]) -> None:
        self.flow, self.rounded = flow, rounded
        self.live = {name: (w != 0).flatten(2).any(2) if w.ndim > 2 else w != 0 for name, w in weights.items()}
        roots = flow.slots.roots
        self.rows = {writer.name: roots(writer.ids) for writer in flow.writers if writer.makes}
        self.columns = {reader.name: roots(reader.ids) for reader in flow.readers}
        padding = [ids for pad in flow.pads for ids in (roots(pad.front), roots(pad.back))]
        self.candidates = {slot for ids in (*self.rows.values(), *padding) for slot in ids.tolist()}
        self.kept = flow.slots.kept()

    def plan(self) -> Plan:
        removed, guarded = self._removable(set()), set[int]()
        while emptied := [ids for ids in self.rows.values() if removed.issuperset(ids.tolist())]:
            guarded |= {int(ids[0]) for ids in emptied}  # a layer without channels would not run
            removed = self._removable(guarded)
        merged, stands = self._merge(removed)
        removed -= stands
        return Plan(frozenset(removed), merged, self._stay(removed, guarded, stands))

    def _removable(self, guarded: set[int]) -> set[int]:
        """The largest set that can go: what a removed row reads need not stay for it."""
        removed: set[int] = set()
        while True:
            blocked = {slot for reader in self.flow.readers for slot in self._blocked(reader, removed)}
            more = self.candidates - self.kept.keys() - guarded - blocked
            if more == removed:
                return removed
            removed = more

    def _read(self, reader: Reader, removed: set[int]) -> Tensor:
        """bool (columns,): those that a row which stays reads."""
        rows = torch.tensor([slot not in removed for slot in self.rows[reader.name].tolist()])
        return self.live[reader.name][rows].any(0)

    def _blocked(self, reader: Reader, removed: set[int]) -> set[int]:
        hinders = reader.constant.isnan()
        if reader.padded and reader.name not in self.rounded:
            hinders = hinders | (reader.constant != 0)
        return set(self.columns[reader.name][self._read(reader, removed) & hinders].tolist())

    def _merge(self, removed: set[int]) -> tuple[dict[str, list[Merged]], set[int]]:
        """Constant channels that the same padded layers read; those that stand for the others stay."""
        values: dict[int, dict[str, float]] = {}
        for reader in self.flow.readers:
            if not reader.padded:
                continue
            due = self._read(reader, removed) & (reader.constant != 0) & ~reader.constant.isnan()
            for slot, value in zip(self.columns[reader.name][due].tolist(), reader.constant[due].tolist(), strict=True):
                if slot in removed:
                    values.setdefault(slot, {})[reader.name] = abs(value)
        groups: dict[frozenset[str], list[int]] = {}
        for slot, sizes in values.items():
            groups.setdefault(frozenset(sizes), []).append(slot)
        merged: dict[str, list[Merged]] = {}
        stands: set[int] = set()
        for names, slots in groups.items():
            ordered = sorted(slots, key=lambda slot: (-min(values[slot].values()), slot))
            count = 2 if any(self.rounded[name] for name in names) else 1
            stands.update(ordered[:count])
            for name in names if ordered[count:] else ():
                merged.setdefault(name, []).append(Merged(tuple(ordered[:count]), frozenset(ordered[count:])))
        return merged, stands

    def _stay(self, removed: set[int], guarded: set[int], stands: set[int]) -> dict[str, int]:
        """Of the channels whose weights are all zero, how many stay, and why."""
        found: dict[str, int] = {}
        for name, ids in self.rows.items():
            for slot, row in zip(ids.tolist(), self.live[name], strict=True):
                if slot in removed or bool(row.any()):
                    continue
                why = self.kept.get(slot)
                why = f"they reach {why}" if why else "other layers add to them, or read them"
                if slot in guarded:
                    why = "a layer needs one channel"
                elif slot in stands:
                    why = "they stand for other constant channels, which zero padding does not let a bias replace"
                found[why] = found.get(why, 0) + 1
        return found
