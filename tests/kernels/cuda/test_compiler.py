"""Every kernel compiles for every architecture without a GPU: no spills, and the tensor-core instructions are there."""

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

from robustq.kernels.cuda import compiler

ARCHITECTURES = ["sm_80", "sm_90a", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_89", "sm_100", "sm_120"))]
SMALL = {"FORMAT": 0, "LIMBS": 2, "SETS": 1, "BLOCKS": 2, "LISTED": 0, "ELEMENT": 0}
LARGE = {"FORMAT": 0, "LIMBS": 1, "COLUMNS": 128, "STAGES": 3, "GROUPED": 0, "CONVOLUTION": 1, "ELEMENT": 2}
QUICK = [
    ("quantize.cu", {"LIMBS": 2, "ORDER": 0, "ELEMENT": 1}),
    ("quantize.cu", {"LIMBS": 1, "ORDER": 2, "ELEMENT": 2}),
    ("small.cu", SMALL),
    ("gemm.cu", LARGE),
]
SLOW = [
    ("quantize.cu", {"LIMBS": 0, "ORDER": 0, "ELEMENT": 0}),
    ("quantize.cu", {"LIMBS": 2, "ORDER": 1, "ELEMENT": 0}),
    ("small.cu", SMALL | {"LIMBS": 0}),
    ("small.cu", SMALL | {"LIMBS": 2, "SETS": 4, "BLOCKS": 1}),
    ("small.cu", SMALL | {"FORMAT": 1, "LIMBS": 2, "SETS": 4, "BLOCKS": 1}),
    ("small.cu", SMALL | {"FORMAT": 2, "LIMBS": 2, "SETS": 4, "BLOCKS": 1, "LISTED": 1}),
    ("gemm.cu", LARGE | {"LIMBS": 2, "STAGES": 2}),
    ("gemm.cu", LARGE | {"CONVOLUTION": 0, "GROUPED": 1}),
    ("gemm.cu", LARGE | {"CONVOLUTION": 0, "GROUPED": 1, "FORMAT": 1, "LIMBS": 2, "COLUMNS": 64}),
]

HOPPER = {"FORMAT": 0, "LIMBS": 1, "BLOCKS": 2, "STAGES": 4, "GROUPED": 0, "ELEMENT": 2}


@pytest.fixture(scope="module", autouse=True)
def nvrtc() -> None:
    try:
        compiler.library()
    except compiler.CudaError as error:
        pytest.skip(str(error))


def disassembly(code: bytes, folder: Path) -> str:
    """SASS, by the tool of the package nvidia-cuda-cuobjdump, which calls that of nvidia-cuda-nvdisasm."""
    try:
        importlib.metadata.version("nvidia-cuda-nvdisasm")
        listed = importlib.metadata.files("nvidia-cuda-cuobjdump") or []
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    tool = next(Path(str(f.locate())) for f in listed if f.name == "cuobjdump")
    (folder / "kernel.cubin").write_bytes(code)
    command = [str(tool), "-sass", str(folder / "kernel.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "defines"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_it_compiles_without_spilling(name: str, defines: dict[str, int], arch: str) -> None:
    extra = {"WGMMA": int(arch == "sm_90a")} if name == "gemm.cu" else {}
    check(compiler.compile(name, arch, defines | extra))


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"FORMAT": 1, "LIMBS": 2, "BLOCKS": 1, "GROUPED": 1},
        *(pytest.param(d, marks=pytest.mark.slow) for d in ({"LIMBS": 2}, {"BLOCKS": 1, "GROUPED": 1, "ELEMENT": 0})),
    ],
    ids=str,
)
def test_the_specialised_kernel_compiles_for_hopper(own: dict[str, int], tmp_path: Path) -> None:
    defines = HOPPER | own
    compiled = compiler.compile("hopper.cu", "sm_90a", defines)
    check(compiled)
    assert "setmaxnreg" not in compiled.log  # what the assembler names when it ignores it
    text = disassembly(compiled.code, tmp_path)
    counts = {name: len(re.findall(rf"\b{name}\b", text)) for name in ("IGMMA", "UBLKCP", "USETMAXREG", "LDL", "STL")}
    assert counts == {"IGMMA": 4 * defines["BLOCKS"], "UBLKCP": 2, "USETMAXREG": 2, "LDL": 0, "STL": 0}
    assert re.search(r"SYNCS\.PHASECHK\S*TRYWAIT", text)
    # Nothing but the products, or their operands, between two waits for them: both blocks are under way at once.
    assert len(re.findall(r"WARPGROUP\.DEPBAR", text)) == defines["BLOCKS"] + 1 + defines["GROUPED"]


def check(compiled: compiler.Compiled) -> None:
    assert compiled.code.startswith(b"\x7fELF")
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", compiled.log)
    assert spilled
    assert all(pair == ("0", "0") for pair in spilled)
    # What the assembler says where it waits after every wgmma, or puts a fence of its own before one.
    assert "serialized" not in compiled.log
    assert "injected" not in compiled.log


@pytest.mark.parametrize(
    ("name", "defines", "arch", "instruction"),
    [
        ("small.cu", SMALL, "sm_80", r"IMMA\.16832\.S8\.S8"),
        ("small.cu", SMALL | {"LIMBS": 0}, "sm_80", r"HMMA\.16816\.F32\.BF16"),
        ("small.cu", SMALL, "sm_80", r"LDG\.E\.(NA|128)\S*"),
        pytest.param("gemm.cu", LARGE | {"WGMMA": 0}, "sm_80", r"LDGSTS\.E\.\S*128", marks=pytest.mark.slow),
        ("gemm.cu", LARGE | {"WGMMA": 1}, "sm_90a", r"IGMMA\.64x128x32\.S8\.S8"),
    ],
)
def test_the_machine_code_uses_what_it_is_written_for(
    name: str, defines: dict[str, int], arch: str, instruction: str, tmp_path: Path
) -> None:
    text = disassembly(compiler.compile(name, arch, defines).code, tmp_path)
    assert re.search(instruction, text)
    assert not re.search(r"\b(LDL|STL)\b", text)


def test_a_newer_device_gets_ptx() -> None:
    newest = max(compiler.supported())
    compiled = compiler.compile("quantize.cu", f"compute_{newest}", {"LIMBS": 1, "ORDER": 1, "ELEMENT": 0})
    assert b".entry quantize_rows" in compiled.code


def test_an_error_names_the_file_and_the_line() -> None:
    with pytest.raises(compiler.CudaError, match=r"small\.cu does not compile for sm_80:\s+small\.cu\(\d+\)"):
        compiler.compile("small.cu", "sm_80", {})


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize(
    ("name", "defines"),
    [
        ("small.cu", SMALL | {"FORMAT": 1}),
        ("gemm.cu", LARGE | {"FORMAT": 1, "CONVOLUTION": 0, "GROUPED": 1}),
        ("gemm.cu", LARGE | {"FORMAT": 1, "CONVOLUTION": 0, "GROUPED": 1, "LIMBS": 2, "COLUMNS": 64}),
        ("hopper.cu", HOPPER | {"FORMAT": 1, "BLOCKS": 1, "GROUPED": 1}),
    ],
    ids=str,
)
def test_zero_points_do_not_spill(name: str, defines: dict[str, int], arch: str) -> None:
    if name == "hopper.cu" and arch != "sm_90a":
        pytest.skip("for Hopper alone")
    extra = {"WGMMA": int(arch == "sm_90a")} if name == "gemm.cu" else {}
    check(compiler.compile(name, arch, defines | extra | {"ZEROS": 1}))
