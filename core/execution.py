"""Threads, device and processes of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import get_node_local_rank

from .crew import Crew
from .errors import OptionError
from .recipe import RunPart


def use(run: RunPart) -> None:
    """Set torch's threads, and see that the device is there; OptionError naming it if not."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    try:
        torch.empty(1, device=run.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--device {run.device} cannot be used: {reason}", "Use --device cpu.") from None


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
        torch.cuda.set_device(get_node_local_rank())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Crew()
    finally:
        dist.destroy_process_group()
