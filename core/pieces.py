"""The result of one attack on one part of the images: what a long evaluation stores, shares and puts together."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .attacks.attack import Attack
from .driver import AttackResult
from .errors import InputFileError

MOST = 1024  # images of a part: they are in memory as floats at the same time
_LEAST = 64
_STEPS = 1 << 18  # image steps of a part; about half a minute of a small network on one core


def parts(n: int, attack: Attack | None = None) -> list[Tensor]:
    """The places 0..n-1 in parts of equal size, the smaller the more steps the attack takes for an image.

    The size depends on nothing else, so that a run that was interrupted has the same parts when it goes on.
    """
    steps = sum(member.iterations * member.repeats for member in attack.members) if attack else 1
    size = _STEPS // max(1, steps)
    return list(torch.arange(n).split(min(MOST, max(_LEAST, size - size % _LEAST)))) if n else []


@dataclass
class Piece:
    """What `AttackResult` holds of k images, without the images themselves.

    robust (k,) bool, first_step (k,) int64, minimal_norms (k,) float32 or None; the rest is summed over the images.
    batch is how many images fitted at a time.
    """

    robust: Tensor
    first_step: Tensor
    minimal_norms: Tensor | None = None
    forwards: int = 0
    backwards: int = 0
    unconfirmed: int = 0
    zero_gradient: int = 0
    close: int = 0
    seconds: float = 0.0
    through_rounding: bool = False
    rescaled: bool = False
    survivors: dict[str, int] = field(default_factory=dict)
    batch: int = 1

    @classmethod
    def of(cls, found: AttackResult) -> "Piece":
        """The part of a result that is kept."""
        return cls(**{f.name: getattr(found, f.name) for f in fields(cls)})

    def to_bytes(self) -> bytes:
        """A safetensors file: the tensors, and everything else as one JSON entry of its header."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        facts = {name: value for name, value in values.items() if name not in tensors and value is not None}
        return save(tensors, {"robustq.piece": json.dumps(facts)})

    @classmethod
    def read(cls, path: str) -> "Piece":
        """A stored piece; InputFileError where the file is no such thing."""
        try:
            with safe_open(path, "pt") as file:
                facts: dict[str, Any] = json.loads((file.metadata() or {})["robustq.piece"])
                return cls(**facts, **{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputFileError(
                f"{path} holds no results of an attack: {type(error).__name__}: {error}",
                "Delete it: that part of the run is then done again.",
            ) from None
