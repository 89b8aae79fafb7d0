"""How Auto-PGD takes its steps and adapts them at checkpoints, image by image: by halves, or by sparsity for L1.

A pace works on these entries of the state: `radius`, `length` of the next step, `since` the last checkpoint, `until`
the next one, and what it adds itself. `age` counts the steps of the stage, of which there are `budget` (n,).
"""

import torch
from torch import Tensor

from .attack import State
from .norms import NORMS

_MOMENTUM = 0.25  # share of the last move in the next one
_RISING = 0.75  # share of steps that must raise the objective for the step to keep its length
_FIRST_SHARE = 0.2  # of the entries, in the first steps of the L1 norm
_SHARE = 1 / 1.5  # of the entries that differ in the best point, in later ones
_SPARSER = 0.95  # a checkpoint where fewer than this share of entries differ finds progress
_SHORTER = 1 / 1.5  # of the length, without progress
_SHORTEST = 0.1  # of the first length


class Halving:
    """L-inf and L2: momentum; steps from 2 eps on are halved where the objective stalls (Croce & Hein 2020, alg. 1)."""

    def entries(self, state: State, drawn: bool) -> State:
        """What a stage starts with: state holds `x`, `clean`, `radius` and `budget`; drawn: whether x is random."""
        low = torch.full_like(state["radius"], -torch.inf)
        return {
            "length": 2 * state["radius"],
            "until": (0.22 * state["budget"]).long().clamp_min(1),
            "rises": torch.zeros_like(state["budget"]),
            "checked_value": low,
            "halved": torch.ones_like(state["budget"], dtype=torch.bool),
        }

    def noted(self, state: State) -> State:
        """The entries that change with the value of one more point."""
        return {
            "rises": state["rises"] + (state["value"] > state["last_value"]),
            "checked_value": torch.where(state["age"] == 0, state["value"], state["checked_value"]),
        }

    def checked(self, state: State, due: Tensor) -> tuple[Tensor, State]:
        """(n,) bool which images go on from their best point, and the entries that change where `due` (n,)."""
        few = state["rises"] <= _RISING * state["until"]
        halve = due & (few | (~state["halved"] & (state["checked_value"] >= state["best_value"])))
        less = (0.03 * state["budget"]).long().clamp_min(1)
        shorter = torch.maximum(state["until"] - less, (0.06 * state["budget"]).long().clamp_min(1))
        return halve, {
            "length": torch.where(halve, state["length"] / 2, state["length"]),
            "halved": torch.where(due, halve, state["halved"]),
            "checked_value": torch.where(due, state["best_value"], state["checked_value"]),
            "until": torch.where(due, shorter, state["until"]),
            "rises": state["rises"].masked_fill(due, 0),
        }

    def moved(self, state: State, here: Tensor, grad: Tensor, norm: str) -> Tensor:
        """One step from `here`, with momentum from the second step on."""
        clean, radius, shape = state["clean"], state["radius"], NORMS[norm]
        ahead = shape.confine(clean, here + rows(state["length"]) * shape.steepest(grad) - clean, radius)
        share = rows(torch.where(state["age"] == 0, 0.0, _MOMENTUM).to(here))
        step = (1 - share) * (ahead - here) + share * (here - state["last"])
        return shape.confine(clean, here + step - clean, radius)


class Sparse:
    """L1: steps of equal size along a share of the entries that follows the best point (Croce & Hein 2021, alg. 1)."""

    def entries(self, state: State, drawn: bool) -> State:
        """As of `Halving`. A stage that goes on from an earlier one knows how many entries count."""
        size = state["clean"][0].numel()
        count = torch.full_like(state["budget"], size) if drawn else _changed(state["x"], state["clean"])
        share = torch.full_like(state["radius"], _FIRST_SHARE) if drawn else count * _SHARE / size
        until = (0.04 * state["budget"]).long().clamp_min(1)
        return {"length": state["radius"].clone(), "until": until, "share": share, "count": count}

    def noted(self, state: State) -> State:
        return {}

    def checked(self, state: State, due: Tensor) -> tuple[Tensor, State]:
        count = _changed(state["best"], state["clean"])
        sparser = count < _SPARSER * state["count"]
        shorter = torch.maximum(state["length"] * _SHORTER, state["radius"] * _SHORTEST)
        length = torch.where(sparser, state["radius"], shorter)
        return due & sparser, {
            "length": torch.where(due, length, state["length"]),
            "share": torch.where(due, count * _SHARE / state["clean"][0].numel(), state["share"]),
            "count": torch.where(due, count, state["count"]),
        }

    def moved(self, state: State, here: Tensor, grad: Tensor, norm: str) -> Tensor:
        """One step from `here` along the entries of largest slope, all by the same amount."""
        slope = grad.flatten(1).abs()
        size = slope.shape[1]
        place = ((1 - state["share"]) * size).long().clamp(0, size - 1)
        least = slope.sort(1).values.gather(1, place[:, None])
        sign = torch.where(slope >= least, grad.flatten(1).sign(), 0.0)
        step = sign * (state["length"][:, None] / sign.abs().sum(1, keepdim=True).clamp_min(1))
        return NORMS[norm].confine(state["clean"], here + step.view_as(here) - state["clean"], state["radius"])


def pace(norm: str) -> Halving | Sparse:
    """The pace of Auto-PGD in a norm."""
    return Sparse() if norm == "l1" else Halving()


def rows(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to be multiplied with images."""
    return values.view(-1, 1, 1, 1)


def _changed(x: Tensor, clean: Tensor) -> Tensor:
    """(n,) int64 how many entries of an image differ."""
    return (x != clean).flatten(1).sum(1)
