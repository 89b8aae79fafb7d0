"""The data sets that come with robustq, as compressed arrays in `robustq.core`'s data folder."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from .. import registry
from .archive import missing_split, read_npz
from .arrays import Raw
from .known import CLOTHING, Known


@dataclass(frozen=True, kw_only=True)
class Bundled(Known):
    """A data set inside the package; no folder is searched."""

    file: ClassVar[str] = ""

    def read(self, split: str, directory: Path | None) -> Raw:
        if split not in self.splits:
            raise missing_split(registry.name_of(self), split, self.splits)
        content = (files("robustq.core") / "data" / self.file).read_bytes()
        raw = read_npz(content, Path(self.file), split)
        return Raw(raw.images, raw.labels, self.classes, self.divisor)


@dataclass(frozen=True, kw_only=True)
class FashionMini(Bundled):
    """Bundled sample of Fashion-MNIST: the first 100 test and 50 training images of each of the 10 classes."""

    SOURCE = "Xiao et al. 2017, arXiv:1708.07747 (MIT, Zalando SE)"
    eps = 0.1
    class_names = CLOTHING
    file = "fashion_mini.npz"
