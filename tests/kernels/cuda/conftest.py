"""The kernels' own text, compiled for the CPU with emulator.h in the place of device.cuh."""

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustq.kernels.cuda import compiler
from robustq.kernels.cuda.products import THREADS, Launch, Launcher

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """A launcher that runs the kernel on the CPU, one fiber a thread."""
    gcc = shutil.which("g++")
    if gcc is None:
        pytest.skip("no g++, which compiles the emulated kernels")
    folder = tmp_path_factory.mktemp("emulated")
    (folder / "device.cuh").write_text((HERE / "emulator.h").read_text())
    (folder / "numbers.cuh").write_text(compiler.source("numbers.cuh"))
    built: dict[str, ctypes.CDLL] = {}

    def build(launch: Launch) -> ctypes.CDLL:
        flags = [f"-D{key}={value}" for key, value in sorted(launch.defines.items())] + [f"-DKERNEL={launch.function}"]
        name = hashlib.sha256(" ".join([launch.source, *flags]).encode()).hexdigest()[:16]
        if name not in built:
            own = folder / name
            own.mkdir()
            (own / "kernel.cu").write_text(compiler.source(launch.source))
            (own / "harness.cpp").write_text((HERE / "harness.cpp").read_text())
            command = [
                gcc,
                "-std=c++17",
                "-O0",
                "-shared",
                "-fPIC",
                "-fno-strict-aliasing",
                "-w",
                f"-I{folder}",
                *flags,
            ]
            made = subprocess.run(
                [*command, "harness.cpp", "-o", "kernel.so"], cwd=own, capture_output=True, text=True, check=False
            )
            assert made.returncode == 0, made.stderr
            built[name] = ctypes.CDLL(str(own / "kernel.so"))
        return built[name]

    def launch_on_cpu(launch: Launch, device: torch.device) -> None:
        def argument(value: object) -> object:
            if value is None or isinstance(value, Tensor):
                return ctypes.c_void_p(None if value is None else value.data_ptr())
            return value

        arguments = [argument(value) for value in launch.arguments]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))  # type: ignore[arg-type]
        build(launch).emulate(*launch.grid, THREADS, ctypes.c_size_t(launch.shared), pointers)

    return launch_on_cpu
