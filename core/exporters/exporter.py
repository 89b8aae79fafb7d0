"""The interface of an exporter: bytes for another tool, read back and compared before they take their place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from .. import files
from ..errors import VerificationError
from ..option import Method

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


@dataclass(frozen=True)
class Rendered:
    """A file's bytes before they are written.

    max_error  largest difference found by the verification (the exporter says of what), None if there was none
    facts      JSON values worth a place in the report
    """

    data: bytes
    max_error: float | None
    facts: dict[str, Any] = field(default_factory=dict)


class Exporter(Method):
    """One format. `encode` makes the bytes, `verify` reads them back; `write` does both and then writes."""

    suffix: ClassVar[str] = ""
    needs_class: ClassVar[bool] = False  # whether a state dict without its class is not enough

    def encode(self, checkpoint: "Checkpoint", classifier: nn.Module | None) -> tuple[bytes, dict[str, Any]]:
        """The file's bytes and facts about them."""
        raise NotImplementedError

    def verify(self, data: bytes, checkpoint: "Checkpoint", classifier: nn.Module | None) -> float | None:
        """The largest error found on reading `data` back, None if not looked for; else VerificationError."""
        raise NotImplementedError

    def render(self, checkpoint: "Checkpoint", classifier: nn.Module | None) -> Rendered:
        """Verified bytes. A wrong file is never written, so it cannot take the place of a good one either."""
        data, facts = self.encode(checkpoint, classifier)
        return Rendered(data, self.verify(data, checkpoint, classifier), facts)

    def write(
        self, checkpoint: "Checkpoint", classifier: nn.Module | None, path: Path, *, force: bool = False
    ) -> list[Path]:
        """Write the verified file at `path` and compare what is on disk with what was verified."""
        files.check_output(path, force)
        put(self.render(checkpoint, classifier).data, path, force)
        return [path]


def put(data: bytes, path: Path, force: bool) -> None:
    """Write verified bytes and read them back; VerificationError, and no file, if the disk gives others."""
    files.write(path, data, force)
    if path.is_file() and path.read_bytes() != data:  # a device or a named pipe gives nothing back
        path.unlink()
        raise VerificationError(
            f"{path}: the {len(data)} bytes read back are not those that were written; the file was removed.",
            "Check the disk, or write to another one.",
        )
