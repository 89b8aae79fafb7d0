"""Kernels on a GPU through the driver: compiled once, kept on disk, launched on torch's current stream."""

import ctypes
import functools
import hashlib
import os
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import compiler
from .compiler import CudaError
from .products import Launch

OLDEST = (8, 0)  # the first capability with the tensor-core instructions used
_SHARED_BY_DEFAULT = 48 << 10  # bytes a block may have without asking
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


@functools.cache
def driver() -> ctypes.CDLL:
    """The driver's library; CudaError without one."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError(f"there is no CUDA driver: {error}") from None


def architecture(device: torch.device) -> str:
    """What to compile for: "sm_90a" with its own instructions on Hopper, else the device's own architecture.

    PTX of the newest one that NVRTC knows for a device that is newer; the driver makes machine code of that.
    """
    major, minor = torch.cuda.get_device_capability(device)
    known, own = compiler.supported(), 10 * major + minor
    if own == 90:
        return "sm_90a"
    return f"sm_{own}" if own in known else f"compute_{max(n for n in known if n <= own)}"


def launch(launch: Launch, device: torch.device) -> None:
    """Put one kernel on the current stream of the tensors' device; it may be captured in a CUDA graph.

    Every variant must have run once before a capture, as its first use loads it. CudaError with what the driver says.
    """
    with torch.cuda.device(device):
        function = _function(
            launch.source, launch.function, tuple(sorted(launch.defines.items())), launch.shared,
            torch.cuda.current_device(),
        )  # fmt: skip
        arguments = [_argument(value) for value in launch.arguments]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        x, y = launch.grid
        _check(
            driver().cuLaunchKernel(function, x, y, 1, launch.threads, 1, 1, launch.shared, stream, pointers, None),
            f"launching {launch.function} on a grid of {x} x {y}",
        )


def _argument(value: Any) -> Any:
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(None if value is None else value.data_ptr())
    return value


@functools.cache
def _function(
    source: str, name: str, defines: tuple[tuple[str, int], ...], shared: int, device: int
) -> ctypes.c_void_p:
    """The loaded kernel; torch has made the device's context current."""
    code = machine_code(source, architecture(torch.device("cuda", device)), dict(defines))
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(driver().cuModuleLoadData(ctypes.byref(module), code), f"loading {source}")
    _check(driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()), f"finding {name}")
    if shared > _SHARED_BY_DEFAULT:
        asked = driver().cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared)
        _check(asked, f"asking for {shared} bytes of shared memory for {name}")
    return function


def machine_code(source: str, arch: str, defines: Mapping[str, int]) -> bytes:
    """The file built with the package, else `compiler.compile`, kept on disk by the hash of all that goes in."""
    import platformdirs

    settings = "-".join(f"{key}={value}" for key, value in sorted(defines.items()))
    built = files("robustq.kernels.cuda") / "prebuilt" / f"{source}-{arch}-{settings}.cubin"
    if built.is_file():
        return built.read_bytes()
    parts = [compiler.source(name) for name in (source, *compiler.HEADERS)]
    key = hashlib.sha256("\0".join([*parts, arch, settings]).encode()).hexdigest()
    place = Path(platformdirs.user_cache_dir("robustq")) / "kernels" / f"{Path(source).stem}-{arch}-{key[:32]}.cubin"
    try:
        return place.read_bytes()
    except OSError:
        code = compiler.compile(source, arch, defines).code
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        os.replace(beside, place)
    except OSError:
        pass  # a folder that cannot be written to costs a compilation in every process, nothing else
    return code


def _check(result: int, call: str) -> None:
    if result:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(result, ctypes.byref(text))
        raise CudaError(f"{call}: {(text.value or b'unknown error').decode()} ({result})")
