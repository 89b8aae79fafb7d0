"""Data sets known by name: where they are looked for, and where they are fetched from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .. import registry
from ..errors import DataError
from ..option import Method
from .archive import missing_split
from .arrays import Raw
from .download import cache_folder, fetch

CLOTHING = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Remote:
    """A file to fetch: its name at every mirror, and its checksum as "md5:..."."""

    file: str
    checksum: str


@dataclass(frozen=True, kw_only=True)
class Known(Method):
    """A data set with a name: searched in the given folder, then in the cache, then downloaded into the cache."""

    eps: ClassVar[float | None] = None  # the usual L-inf radius in [0, 1] pixel units
    augment: ClassVar[str] = "none"  # the usual augmentation in training
    classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = ()  # as its authors write them, where that is worth showing
    divisor: ClassVar[float] = 255.0
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    folders: ClassVar[tuple[str, ...]] = ()  # sub-folders that are searched too; the first is its place in the cache
    mirrors: ClassVar[tuple[str, ...]] = ()
    checksums: ClassVar[dict[str, str]] = {}  # md5 of the official files

    def read(self, split: str, directory: Path | None) -> Raw:
        """One split; DataError naming what was looked for, and where, if it is nowhere."""
        name = registry.name_of(self)
        if split not in self.splits:
            raise missing_split(name, split, self.splits)
        for place in self._places(directory):
            raw = self.look(place, split)
            if raw is not None:
                return raw
        return self._fetched(name, split, directory)

    def look(self, folder: Path, split: str) -> Raw | None:
        """The split if this folder holds it, else None."""
        raise NotImplementedError

    def remote(self, split: str) -> list[Remote]:
        """What has to be fetched for a split."""
        raise NotImplementedError

    def wanted(self, split: str) -> str:
        """The files that were missed, for the error."""
        return " and ".join(remote.file for remote in self.remote(split))

    def _places(self, directory: Path | None) -> Iterator[Path]:
        for base in (directory, cache_folder()):
            if base is not None:
                yield from (base, *(base / folder for folder in self.folders))

    def _fetched(self, name: str, split: str, directory: Path | None) -> Raw:
        place = cache_folder() / self.folders[0]
        needed = self.remote(split)
        try:
            for remote in needed:
                fetch(self.mirrors, remote.file, remote.checksum, place)
        except DataError as error:
            searched = " or ".join(str(base) for base in (directory, cache_folder()) if base is not None)
            raise DataError(
                f"{name}: {self.wanted(split)} ({split} split) not found in {searched}, "
                f"and fetching failed: {error.problem}.",
                "Name the folder that holds the files with --data-dir.",
            ) from None
        raw = self.look(place, split)
        if raw is None:
            raise DataError(f"{name}: the files fetched into {place} do not hold the {split} split.")
        return raw
