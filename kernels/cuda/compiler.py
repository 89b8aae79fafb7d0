"""CUDA sources to machine code by NVRTC: at first use on a GPU, in continuous integration for every architecture.

The library is torch's own, or that of the package nvidia-cuda-nvrtc; neither a toolkit nor a GPU is needed. The sources
include no header but their own, which are handed over as text.
"""

import ctypes
import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

HEADERS = ("device.cuh", "numbers.cuh", "scales.cuh", "product.cuh")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
_PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")


class CudaError(RuntimeError):
    """What a CUDA library answered, with the call that asked."""


def source(name: str) -> str:
    """The text of a file of this folder."""
    return (files("robustq.kernels.cuda") / name).read_text(encoding="utf-8")


@functools.cache
def library() -> ctypes.CDLL:
    """NVRTC, loaded once; CudaError saying where it was looked for if there is none."""
    for candidate in (*_installed(), *map(Path, _NAMES)):
        try:
            # NVRTC looks for its builtins by name alone, which finds them once they are loaded.
            for builtins in sorted(Path(candidate).parent.glob("libnvrtc-builtins.so*")):
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(candidate))
        except OSError:
            continue
    raise CudaError(f"NVRTC is not installed: neither of {', '.join(_PACKAGES)} is there, nor {_NAMES[0]}")


def _installed() -> list[Path]:
    """Where the packages that carry NVRTC have put it."""
    found = []
    for package in _PACKAGES:
        try:
            listed = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found += [Path(str(f.locate())) for f in listed if f.name in _NAMES]
    return found


@dataclass(frozen=True)
class Compiled:
    """Machine code, or PTX with a zero byte at its end, and what the assembler said of registers and spills."""

    code: bytes
    log: str


def supported() -> list[int]:
    """The architectures this NVRTC knows, as numbers (80 for sm_80), ascending."""
    nvrtc, count = library(), ctypes.c_int()
    _check(nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
    known = (ctypes.c_int * count.value)()
    _check(nvrtc.nvrtcGetSupportedArchs(known), "nvrtcGetSupportedArchs")
    return sorted(known)


def compile(name: str, arch: str, defines: Mapping[str, int]) -> Compiled:
    """The file `name` for `arch`: machine code of a real one ("sm_90a"), PTX of a virtual one ("compute_100").

    CudaError with the compiler's log if it does not compile.
    """
    nvrtc = library()
    options = [f"--gpu-architecture={arch}", "--std=c++17", "-default-device"]
    options += ["--ptxas-options=-v"] if arch.startswith("sm_") else []
    options += [f"-D{key}={value}" for key, value in sorted(defines.items())]
    program = ctypes.c_void_p()
    texts = (ctypes.c_char_p * len(HEADERS))(*(source(header).encode() for header in HEADERS))
    names = (ctypes.c_char_p * len(HEADERS))(*(header.encode() for header in HEADERS))
    made = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source(name).encode(), name.encode(), len(HEADERS), texts, names
    )
    _check(made, "nvrtcCreateProgram")
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), flags)
        log = _fetch(program, "ProgramLog").rstrip(b"\0").decode(errors="replace").strip()
        if failed:
            raise CudaError(f"{name} does not compile for {arch}:\n{log}")
        return Compiled(_fetch(program, "CUBIN" if arch.startswith("sm_") else "PTX"), log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _fetch(program: ctypes.c_void_p, what: str) -> bytes:
    nvrtc, size = library(), ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
    return buffer.raw


def _check(result: int, call: str) -> None:
    if result:
        library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CudaError(f"{call}: {library().nvrtcGetErrorString(result).decode()}")
