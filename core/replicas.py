"""Training by several processes: each takes its share of every batch, DistributedDataParallel joins the gradients.

The gradient is that of the whole batch, so networks without batch norm train as by one process, to rounding. On GPUs
batch norm takes its statistics from the whole batch too (SyncBatchNorm). Elsewhere it takes them from each process's
share, and the running ones of the first process are everyone's.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .crew import Crew
from .errors import OptionError

T = TypeVar("T")
CPU = torch.device("cpu")


class Replicas:
    """The processes of torch's default group that train one model together; a single one where there is no group.

    All of them hold the same weights, optimizer and sessions, and take every step together.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        joined = dist.is_available() and dist.is_initialized()
        self.crew = Crew() if joined else None
        self.rank, self.size = (self.crew.rank, self.crew.size) if self.crew else (0, 1)
        self._step: nn.Module | None = None

    @property
    def leads(self) -> bool:
        """Whether this process validates, saves and writes."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """What tells this process's random draws from those of the first."""
        return () if self.leads else (self.rank,)

    def noted(self) -> dict[str, int]:
        """What the training's history says of it."""
        return {} if self.crew is None else {"processes": self.size}

    def remarks(self, model: nn.Module) -> list[str]:
        """What the user should know."""
        norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        if not norms or self.size == 1:
            return []
        if any(isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
            return [f"trained by {self.size} processes: batch norm took its statistics from whole batches."]
        return [
            f"trained by {self.size} processes: batch norm took its statistics from each one's share of a batch, and"
            " its running statistics are those of the first."
        ]

    def check(self, batch_size: int) -> None:
        """OptionError where a batch has not an image for each process."""
        if batch_size < self.size:
            raise OptionError(
                f"a batch of {batch_size} images cannot be shared by {self.size} processes.",
                f"Give --batch-size {self.size} or more, or start fewer processes.",
            )

    def synchronised(self, net: nn.Module) -> nn.Module:
        """The network, its batch norm joined over the processes where that can be done; parameters stay the same."""
        if self.size == 1 or self.device.type != "cuda":
            return net
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)

    def own(self, model: nn.Module, parameters: Iterable[Tensor]) -> None:
        """Called once before training: the parameters whose gradients are joined, in `model` or not."""
        if self.crew:
            step = _Step(model, parameters)
            # A step may leave parameters out: masked layers, scores of a later phase.
            self._step = DistributedDataParallel(step, find_unused_parameters=True)

    def share(self, index: Tensor) -> tuple[Tensor, float]:
        """index (n,) of a batch -> this process's part, and the weight of its mean in the mean over processes.

        Where a last batch has fewer images than there are processes, some get an image of weight 0.
        """
        if not self.crew:
            return index, 1.0
        mine = index.tensor_split(self.size)[self.rank]
        return (mine if len(mine) else index[:1]), self.size * len(mine) / len(index)

    def forward(self, compute: Callable[[], T]) -> T:
        """`compute()`, a loss with what belongs to it; `backward` leaves the mean of all processes' gradients."""
        return compute() if self._step is None else self._step(compute)

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, the gradients of all processes joined."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # of 1-channel kernels
            loss.backward()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean of each value over the processes; not finite where one of them is not."""
        if not self.crew:
            return values
        joined = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(joined)
        return dict(zip(values, (joined / self.size).tolist(), strict=True))

    def told(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them. Its errors are raised in the first alone."""
        if not self.crew:
            return make()
        found: list[T | None] = [make() if self.leads else None]
        dist.broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]


def alone(net: nn.Module) -> nn.Module:
    """The network with ordinary batch norm in place of the joined one, for passes that one process makes by itself."""
    if isinstance(net, nn.SyncBatchNorm):
        plain = _Alone(net.num_features, net.eps, net.momentum, net.affine, net.track_running_stats)
        plain._parameters, plain._buffers = net._parameters, net._buffers
        return plain.train(net.training)
    for name, part in net.named_children():
        setattr(net, name, alone(part))
    return net


class _Alone(nn.modules.batchnorm._BatchNorm):
    """Batch norm for inputs of any number of axes, as the joined one takes them."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class _Step(nn.Module):
    """What DistributedDataParallel wants: a module that holds the parameters and whose forward pass uses them."""

    def __init__(self, model: nn.Module, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.model = model
        inside = {id(p) for p in model.parameters()}
        self.others = nn.ParameterList([p for p in parameters if isinstance(p, nn.Parameter) and id(p) not in inside])

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()
