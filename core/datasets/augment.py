"""Random crops and flips of a batch, each image's draw a function of the key and its own index."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import rng
from ..errors import OptionError

KINDS = ("none", "flip", "crop", "crop+flip")


def augment(x: Tensor, kind: str, key: tuple[int | str, ...], index: Tensor) -> Tensor:
    """x (k, c, h, w), index (k,) int64 -> the batch augmented, same shape and dtype.

    kind   none | flip (left-right, probability 1/2) | crop (pad with zeros, cut out at a random place) | crop+flip
           (He et al. 2016, section 4.2); the padding is 4 for 32 pixels, 2 for 28, see `padding`
    key    seed, purpose and epoch: the same key gives an image the same draw in every batch
    Raises OptionError for a kind there is not.
    """
    if kind not in KINDS:
        raise OptionError(f"There is no augmentation {kind!r}.", f"It can be one of: {', '.join(KINDS)}.")
    if kind == "none":
        return x
    k, c, h, w = x.shape
    draw = rng.uniform((*key, "augment"), index, (3,)).to(x.device)
    rows = torch.arange(h, device=x.device).expand(k, h)
    columns = torch.arange(w, device=x.device).expand(k, w)
    if "crop" in kind:
        pad = padding(min(h, w))
        x = F.pad(x, (pad, pad, pad, pad))
        shift = (draw[:, :2] * (2 * pad + 1)).long()  # a draw is below 1, so this is 0 .. 2 pad
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
    if "flip" in kind:
        columns = torch.where(draw[:, 2:] < 0.5, columns.flip(1), columns)
    # Two gathers along one axis each are several times faster than one over all axes.
    width = x.shape[3]
    x = x.gather(2, rows[:, None, :, None].expand(k, c, h, width))
    return x.gather(3, columns[:, None, None, :].expand(k, c, h, w))


def padding(side: int) -> int:
    """Pixels added on each side before a crop: an eighth from 32 pixels on, 2 from 16, else 1."""
    return side // 8 if side >= 32 else 2 if side >= 16 else 1
