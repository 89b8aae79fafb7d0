"""Whether CUDA tensors have kernels here, and which of two the many samples of a linear layer take.

ROBUSTQ_CUDA_GEMM=standard|specialised: gemm.cu, the default, or hopper.cu, which needs compute capability 9.0.
"""

import functools
import os

import torch

from . import compiler, machine

GEMMS = ("standard", "specialised")
gemm = os.environ.get("ROBUSTQ_CUDA_GEMM", GEMMS[0])


@functools.cache
def reason() -> str | None:
    """Why not, or None where they have."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if torch.cuda.get_device_capability() < machine.OLDEST:
        return "the device is older than compute capability {}.{}".format(*machine.OLDEST)
    if gemm not in GEMMS:
        return f"ROBUSTQ_CUDA_GEMM={gemm!r} is none of {', '.join(GEMMS)}"
    if gemm == "specialised" and torch.cuda.get_device_capability() != (9, 0):
        return "ROBUSTQ_CUDA_GEMM='specialised' needs a GPU of compute capability 9.0"
    try:
        compiler.library()
        machine.driver()
    except compiler.CudaError as error:
        return str(error)
    return None
