"""Threads, device and processes of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import get_node_local_rank

from .crew import Crew
from .errors import OptionError
from .recipe import RunPart

_PATIENCE = timedelta(days=1)  # how long processes wait for the one that validates


def use(run: RunPart) -> None:
    """Set torch's threads, and see that the device is there; OptionError naming it if not."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    device(run)


def device(run: RunPart) -> torch.device:
    """Where the run computes; OptionError naming it where it is not there."""
    try:
        torch.empty(1, device=run.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--device {run.device} cannot be used: {reason}", "Use --device cpu.") from None
    return torch.device(run.device)


@contextmanager
def repeatable() -> Iterator[None]:
    """Convolutions on GPUs by algorithms that give the same bits each time, so that a resumed run is the same run."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def crew(run: RunPart) -> Iterator[Crew | None]:
    """The processes that torchrun started, joined inside the block; None where this process is the only one.

    On GPUs each process takes the one with its number on this machine.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield None
        return
    on_gpu = torch.device(run.device).type == "cuda"
    if on_gpu:
        _take_gpu(run.device, get_node_local_rank())
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Crew()
    finally:
        dist.destroy_process_group()


def _take_gpu(name: str, place: int) -> None:
    """Make the GPU of this process, the `place`-th of the machine, the one that "cuda" means."""
    there = torch.cuda.device_count()
    if torch.device(name).index is not None:
        raise OptionError(f"--device {name} is one GPU, but each process takes its own.", "Use --device cuda.")
    if place >= there:
        raise OptionError(f"process {place + 1} of this machine has no GPU: there are {there}.", "Start fewer of them.")
    torch.cuda.set_device(place)
