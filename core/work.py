"""How a long evaluation is carried out: part by part, kept on disk, until a deadline, by several processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .crew import Crew
from .deadline import Deadline, TimeIsUp
from .errors import InputFileError
from .ledger import Ledger
from .pieces import Piece
from .search import Progress

# places (k,), images at a time (None: what fits), progress in image steps -> the results on these images
Do = Callable[[Tensor, int | None, Progress], Piece]


@dataclass(frozen=True)
class Work:
    """Where finished parts are kept, until when work goes on, and who shares it; none of it changes a result."""

    ledger: Ledger | None = None
    deadline: Deadline | None = None
    crew: Crew | None = None

    def carry_out(self, job: str, parts: Sequence[Tensor], do: Do, progress: Progress | None) -> dict[int, Piece]:
        """Place of a part -> its results, as far as the deadline allows; the parts (k,) are disjoint places of images.

        Parts that the ledger knows are not done again. `progress` counts images of this process's share.
        """
        mine = {i: part for i, part in enumerate(parts) if self.crew is None or self.crew.shares(i)}
        total, done, batch = sum(len(part) for part in mine.values()), 0, None
        found: dict[int, Piece] = {}
        for place, part in mine.items():
            piece = self._known(job, part)
            if piece is None:
                try:
                    piece = do(part, batch, self._watched(progress, done, len(part), total))
                except TimeIsUp:
                    continue
                if self.ledger:
                    self.ledger.keep(job, int(part[0]), piece)
            found[place], batch, done = piece, piece.batch, done + len(part)
        if progress and done == total:
            progress(total, total)
        return self.crew.gathered(found) if self.crew else found

    def _known(self, job: str, part: Tensor) -> Piece | None:
        piece = self.ledger.known(job, int(part[0])) if self.ledger else None
        if piece is not None and len(piece.robust) != len(part):
            raise InputFileError(
                f"--state: {job}: the part from image {int(part[0])} has {len(piece.robust)} images, not {len(part)}.",
                "Another version of robustq wrote it: name another folder.",
            )
        return piece

    def _watched(self, progress: Progress | None, done: int, here: int, total: int) -> Progress:
        """Progress of one part in image steps -> progress in images; leaves the part when the time is up."""
        if self.deadline:
            self.deadline.check()

        def told(steps: int, of: int) -> None:
            if progress:
                progress(done + here * steps // max(1, of), total)
            if self.deadline:
                self.deadline.check()

        return told
