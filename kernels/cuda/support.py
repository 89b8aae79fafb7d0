"""Whether CUDA tensors have kernels here."""

import functools

import torch

from . import compiler, machine


@functools.cache
def reason() -> str | None:
    """Why not, or None where they have."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < machine.OLDEST:
        return "the device is older than compute capability {}.{}".format(*machine.OLDEST)
    try:
        compiler.library()
        machine.driver()
    except compiler.CudaError as error:
        return str(error)
    return None
