"""The kernels' own text, compiled for the CPU with emulator.h in the place of device.cuh."""

import ctypes
import hashlib
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustq.kernels.cuda import compiler
from robustq.kernels.cuda.products import Launch

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O0", "-fPIC", "-fno-strict-aliasing", "-w")
OWN = ("emulator.h", "background.h", "fibers.h", "harness.cpp")


class EmulationError(RuntimeError):
    """What a kernel did that a GPU forbids, or that hangs it."""


@dataclass(frozen=True)
class Emulated:
    """A launcher that runs kernels on the CPU, one fiber a thread.

    schedule    0: all warps in turn; any other: some are left behind for a while, as the number has it
    edits       file, piece of its text and what is put there, for tests of what the machine notices
    """

    folder: Path
    compiler: str
    schedule: int = 0
    edits: tuple[tuple[str, str, str], ...] = ()
    built: dict[str, ctypes.CDLL] = field(default_factory=dict)

    def scheduled(self, schedule: int) -> "Emulated":
        return replace(self, schedule=schedule)

    def edited(self, source: str, *edits: tuple[str, str]) -> "Emulated":
        return replace(self, edits=tuple((source, *edit) for edit in edits))

    def __call__(self, launch: Launch, device: torch.device) -> None:
        def argument(value: object) -> object:
            if value is None or isinstance(value, Tensor):
                return ctypes.c_void_p(None if value is None else value.data_ptr())
            return value

        arguments = [argument(value) for value in launch.arguments]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))  # type: ignore[arg-type]
        held = [value.untyped_storage() for value in launch.arguments if isinstance(value, Tensor)]
        ends = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in held]
        extents = (ctypes.c_void_p * (2 * len(ends)))(*(place for pair in ends for place in pair))
        run = self.build(launch).emulate
        run.restype = ctypes.c_char_p
        shared = ctypes.c_size_t(launch.shared)
        problem = run(
            *launch.grid, launch.threads, shared, pointers, extents, ctypes.c_size_t(len(ends)), self.schedule
        )
        if problem is not None:
            raise EmulationError(f"{launch.function}: {problem.decode()}")

    def text(self, launch: Launch) -> str:
        text = compiler.source(launch.source)
        for source, old, new in self.edits:
            if source != launch.source:
                continue
            assert old in text, f"{old!r} is not in {launch.source}"
            text = text.replace(old, new)
        return text

    def build(self, launch: Launch) -> ctypes.CDLL:
        flags = [f"-D{key}={value}" for key, value in sorted(launch.defines.items())] + [f"-DKERNEL={launch.function}"]
        text = self.text(launch)
        name = hashlib.sha256(" ".join([text, *flags]).encode()).hexdigest()[:16]
        if name not in self.built:
            own = self.folder / name
            own.mkdir()
            (own / "kernel.cu").write_text(text)
            (own / "harness.cpp").write_text((HERE / "harness.cpp").read_text())
            command = [self.compiler, *FLAGS, "-shared", f"-I{self.folder}", *flags, "harness.cpp", "-o", "kernel.so"]
            made = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            self.built[name] = ctypes.CDLL(str(own / "kernel.so"))
        return self.built[name]


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    gcc = shutil.which("g++")
    if gcc is None:
        pytest.skip("no g++, which compiles the emulated kernels")
    folder = tmp_path_factory.mktemp("emulated")
    for name in OWN:
        (folder / name).write_text((HERE / name).read_text())
    for name in compiler.HEADERS:
        text = '#include "emulator.h"\n' if name == "device.cuh" else compiler.source(name)
        (folder / name).write_text(text)
    subprocess.run([gcc, *FLAGS, "-x", "c++-header", "emulator.h", "-o", "emulator.h.gch"], cwd=folder, check=True)
    return Emulated(folder, gcc)
