"""Several processes that share the images of one evaluation, joined by torch.distributed."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Crew:
    """This process among those of the default process group; every process must take part in every exchange."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def shares(self, place: int) -> bool:
        """Whether the part with this place is this process's to do."""
        return place % self.size == self.rank

    def gathered(self, own: dict[int, T]) -> dict[int, T]:
        """The entries of all processes, in the order of their keys."""
        found: list[dict[int, T]] = [{} for _ in range(self.size)]
        dist.all_gather_object(found, own)
        return dict(sorted((key, value) for each in found for key, value in each.items()))
