"""One split of an image data set, kept as it was stored and scaled to [0, 1] a batch at a time."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images and labels of one split.

    images (n, c, h, w) uint8 or float32 as stored; labels (n,) int64 in [0, classes)
    divisor is what stored values are divided by to lie in [0, 1]: 255 for uint8, 1 for floats, 16 for digits
    notes are warnings for the report: a layout or a range that had to be guessed, labels that are not the official ones
    class_names are those of the labels, one each, where they are known
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    classes: int
    divisor: float = 255.0
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def batch(self, index: Tensor, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """index (k,) int64 -> (x (k, c, h, w) float32 in [0, 1], y (k,) int64), both on `device`, the CPU if None."""
        stored = self.images[index].to(device)  # as stored: a quarter of the bytes
        return stored.to(torch.float32).div_(self.divisor), self.labels[index].to(device)

    def first(self, n: int | None) -> "Dataset":
        """The first n images (all of them for None)."""
        if n is None or n >= len(self):
            return self
        return replace(self, images=self.images[:n], labels=self.labels[:n])

    def select(self, index: Tensor) -> "Dataset":
        """The images at these places."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def sha256(self) -> str:
        """Hash of images, labels and divisor: identifies the data in reports and resume keys."""
        digest = hashlib.sha256(f"{tuple(self.images.shape)} {self.images.dtype} {self.divisor}".encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()
