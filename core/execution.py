"""Threads and device of a run."""

import torch

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
