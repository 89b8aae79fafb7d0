"""The inner loops of the vector kernels keep their sums in registers: looked up in the disassembly of the built module.

A loop is what a jump backwards encloses, an inner one encloses no other; it is hot if it adds products at least twice
in the registers of its instruction set. A sum that goes to the stack and comes back there costs a multiple of the time
(g++ 12 does that to the accumulators of the intrinsic of vpdpbusd), and nothing else would show it. Constants may come
from the stack: they cost no more than from elsewhere in the first-level cache.
"""

import re
import shutil
import subprocess
from typing import NamedTuple

import pytest

from robustq.kernels import backend

OBJDUMP = shutil.which("objdump")
LINE = re.compile(r"^ *([0-9a-f]+):\t(\S+) *([^#<]*)")
SUMS = re.compile(r"vpdpbusds?|vpdpwssd|vfn?madd\d+ps|vpaddw|tdp\w+")  # vpaddw: of vpmaddubsw's products
STACK = re.compile(r"\(%(rsp|rbp)\)$")
VECTOR = re.compile(r"%([xyz]mm\d+)")


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def compiler(path: str) -> str:
    shown = subprocess.run([str(OBJDUMP), "-s", "-j", ".comment", path], capture_output=True, text=True)
    return "".join(line[-16:] for line in shown.stdout.splitlines() if line.startswith(" "))


def instructions(path: str) -> list[Instruction]:
    command = [str(OBJDUMP), "-d", "--no-show-raw-insn", path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = (LINE.match(line) for line in shown.splitlines())
    return [Instruction(int(m[1], 16), m[2], m[3].strip()) for m in found if m]


def inner_loops(code: list[Instruction]) -> list[list[Instruction]]:
    """What each jump backwards encloses, where that holds no other such loop."""
    places = {line.address: place for place, line in enumerate(code)}
    loops = []
    last = -1  # the beginning of the latest loop so far: one that ends later and begins before encloses it
    for place, line in enumerate(code):
        if not line.name.startswith("j") or not re.fullmatch(r"[0-9a-f]+", line.operands):
            continue
        begin = places.get(int(line.operands, 16), place + 1)
        if last < begin <= place:
            loops.append(code[begin : place + 1])
            last = begin
    return loops


def hot(loop: list[Instruction], register: str) -> bool:
    return sum(f"%{register}mm" in line.operands for line in loop if SUMS.fullmatch(line.name)) >= 2


def spills(loop: list[Instruction]) -> list[Instruction]:
    """Vectors that are stored to the stack: their operands end with its address."""
    return [line for line in loop if VECTOR.search(line.operands) and STACK.search(line.operands)]


@pytest.fixture(scope="module")
def loops() -> list[list[Instruction]]:
    if backend.native is None or "avx512vnni" not in backend.native.available():
        pytest.skip("no AVX-512 VNNI in this build, or on this processor")
    if OBJDUMP is None:
        pytest.skip("no objdump on this machine")
    if "GCC:" not in (made_by := compiler(backend.native.__file__)):
        pytest.skip(f"what another compiler makes of the kernels is not known here: {made_by or 'no name'}")
    return inner_loops(instructions(backend.native.__file__))


@pytest.mark.parametrize(("register", "least"), [("y", 30), ("z", 100), ("t", 2)])
def test_no_vector_is_spilled_in_a_hot_loop(loops: list[list[Instruction]], register: str, least: int) -> None:
    """AVX2, AVX-512 with and without VNNI, AMX."""
    if register == "t" and "amx" not in backend.native.available():
        pytest.skip("no AMX on this processor")
    chosen = [loop for loop in loops if hot(loop, register)]
    assert len(chosen) >= least, "the loops were not found"
    wrong = {hex(loop[0].address): spills(loop) for loop in chosen if spills(loop)}
    assert not wrong


def test_a_spill_is_seen() -> None:
    text = """
    10:\tvpxor  %xmm0,%xmm0,%xmm0
    14:\tvmovdqa64 %zmm1,0x40(%rsp)
    20:\tvpdpbusd %zmm2,%zmm3,%zmm0
    26:\tvpdpbusd %zmm2,%zmm3,%zmm1
    2c:\tvmovdqa64 %zmm1,0x40(%rsp)
    30:\tmov    0x8(%rsp),%rax
    34:\tjne    20 <tile+0x10>
    36:\tjmp    10 <tile>
    """
    code = [Instruction(int(m[1], 16), m[2], m[3].strip()) for m in map(LINE.match, text.splitlines()) if m]
    (loop,) = inner_loops(code)
    assert (loop[0].address, loop[-1].address) == (0x20, 0x34)
    assert hot(loop, "z")
    assert [line.address for line in spills(loop)] == [0x2C]
