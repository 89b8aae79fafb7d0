"""Replay of adversarial images that were crafted on another model: the first thing to try on a compressed one."""

import os
from dataclasses import dataclass
from functools import lru_cache

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import DataError, InputFileError, OptionError
from ..option import option
from .attack import Attack, Key, State
from .norms import NORMS


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Images that `robustq attack` crafted on other models, such as the float parent, drawn into the ball."""

    SOURCE = "Papernot et al. 2016"
    uses_gradient = False
    files: tuple[str, ...] = option(help="files written by `robustq attack` from the same images")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise OptionError(
                "Transfer: no file is named.", "Name what `robustq attack` wrote: files=float.safetensors."
            )

    @property
    def files_read(self) -> tuple[str, ...]:
        return self.files

    @property
    def iterations(self) -> int:
        return max(1, len(self.files) - 1)  # the last file is judged where the search ends

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": self._replayed(0, x, index)}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        place = (state["taken"] + 1).clamp_max(len(self.files) - 1)
        x = state["x"].clone()
        for file in place.unique().tolist():
            rows = place == file
            x[rows] = self._replayed(file, state["clean"][rows], state["index"][rows])
        return {"x": x}

    def _replayed(self, file: int, clean: Tensor, index: Tensor) -> Tensor:
        path = self.files[file]
        stored = _read(path, _age(path))
        rows = index.cpu()
        if rows.max() >= len(stored["x"]) or not _same(stored["x"][rows], clean.cpu()):
            raise DataError(
                f"{path} holds adversarials of other images than those attacked ({len(stored['x'])} of shape "
                f"{tuple(stored['x'].shape[1:])}).",
                "Craft them with the same --data, --split and --limit.",
            )
        delta = stored["adversarial"][rows].to(clean) - clean
        return NORMS[self.norm].confine(clean, delta, self.radius)


def _same(stored: Tensor, clean: Tensor) -> bool:
    return stored.shape == clean.shape and torch.allclose(stored, clean, rtol=0, atol=1e-6)


def _age(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None


@lru_cache(maxsize=4)
def _read(path: str, age: float) -> dict[str, Tensor]:
    """The file's `x` and `adversarial`; read once, unless it changes."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputFileError(f"{path} is no safetensors file: {error}", "`robustq attack` writes such files.") from None
    images = [found.get(name) for name in ("x", "adversarial")]
    if any(image is None or image.dim() != 4 or not image.is_floating_point() for image in images):
        raise InputFileError(
            f"{path} has no images `x` and `adversarial`; it holds {', '.join(found) or 'nothing'}.",
            "`robustq attack` writes such files.",
        )
    return {"x": found["x"], "adversarial": found["adversarial"]}
