"""Write the pages made from code and from recorded figures; with --check, exit with 1 where one is stale."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import figures  # beside this file, as results
import results
import typer

from robustq.cli.listings import default_of, is_required
from robustq.cli.main import app
from robustq.core.catalogue import catalogue
from robustq.core.diagnostics import CHECKS
from robustq.core.registry import COMPRESSORS, kinds

HERE = Path(__file__).parent
HEAD = "<!-- Written by `python docs/generate.py`; edit the code, not this file. -->\n"


def commands() -> str:
    """Every command with its usage, example and parameters."""
    root: Any = typer.main.get_command(app)
    parts = [
        HEAD,
        "# Commands\n",
        f"`robustq [--version [--verbose]] COMMAND ...`: {lower(root.help)}\n",
        "Results for people go to standard error; standard output carries JSON, a model or a listing. "
        "Exit statuses and the report: [report.md](report.md).\n",
    ]
    for name, command in root.commands.items():
        if name != "bench":  # the same function
            parts += command_lines(name, command)
    return "\n".join(parts)


def command_lines(name: str, command: Any) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(["robustq", name, *(place(p) for p in arguments)])
    yield f"## {name}\n"
    yield f"`{usage} [OPTIONS]`\n" + (" Short: `robustq bench`.\n" if name == "benchmark" else "")
    yield " ".join(command.help.split()) + "\n"
    yield f"Example: `{command.epilog.removeprefix('Example: ')}`\n"
    yield "| | |\n|---|---|"
    for parameter in arguments:
        yield f"| `{cell(parameter.metavar)}` | {cell(parameter.help or '')} |"
    for parameter in options:
        flags = ", ".join(f"`{flag}`" for flag in parameter.opts)
        value = f" `{cell(parameter.metavar)}`" if parameter.metavar else ""
        yield f"| {flags}{value} | {cell(parameter.help or '')} |"
    yield ""


def place(argument: Any) -> str:
    """`MODEL`, `[KIND]` or `[MODEL]...`, as in the usage line of --help."""
    name = argument.metavar if argument.required else f"[{argument.metavar}]"
    return name + ("..." if argument.nargs == -1 else "")


def methods() -> str:
    """Every method with its options and source, one section a kind."""
    compressors = ", ".join(COMPRESSORS)
    parts = [
        HEAD,
        "# Methods\n",
        f"A compressor ({compressors}) is named by `--method` or `--compress NAME:key=value,...`, "
        "an attack by `--attack`, an objective by `--objective`; the values are written as the defaults here are. "
        "`robustq methods [KIND]` prints the same list.\n",
    ]
    for kind in kinds():
        parts.append(f"## {kind}\n")
        for entry in catalogue(kind):
            parts += method_lines(entry)
    return "\n".join(parts)


def method_lines(entry: dict[str, Any]) -> Iterator[str]:
    yield f"### {entry['name']}\n"
    yield f"{entry['summary']}\n"
    if entry["source"]:
        yield f"Source: {entry['source']}\n"
    if not entry["options"]:
        return
    yield "| option | default | type | meaning |\n|---|---|---|---|"
    for option in entry["options"]:
        default = "required" if is_required(option) else f"`{default_of(option)}`"
        meaning = option["help"] + (f" ({option['unit']})" if option["unit"] else "")
        meaning += f"; one of {', '.join(str(choice) for choice in option['choices'])}" if option["choices"] else ""
        yield f"| `{option['name']}` | {default} | {cell(option['type'])} | {cell(meaning)} |"
    yield ""


def cuda() -> str:
    """The CUDA kernels, with what `benchmarks/gpu.py --code` recorded of their machine code."""
    rows = json.loads((HERE / "cuda-code.json").read_text(encoding="utf-8"))["code"]
    archs = list(dict.fromkeys(row["arch"] for row in rows))
    lines = [f"| kernel | {' | '.join(archs)} |", "|---" * (len(archs) + 1) + "|"]
    for name in dict.fromkeys(row["kernel"] for row in rows):
        found = {row["arch"]: row for row in rows if row["kernel"] == name}
        lines.append(
            f"| {name} | {' | '.join(machine_code(found[arch]) if arch in found else '-' for arch in archs)} |"
        )
    return HEAD + CUDA.replace("TABLE", "\n".join(lines))


def machine_code(row: dict[str, Any]) -> str:
    """Registers, and how many instructions of tensor cores, copies in bulk and barriers in shared memory there are."""
    shown = ("IMMA", "HMMA", "IGMMA", "UBLKCP", "SYNCS")
    tensor = [f"{n} {name}" for name, n in row["instructions"].items() if n and name in shown]
    spilled = f", {row['spill_bytes']} bytes spilled" if row["spill_bytes"] else ""
    return ", ".join([f"{row['registers']} registers", *tensor]) + spilled


CUDA = """# CUDA kernels

Packed layers of two and four bits on NVIDIA GPUs from compute capability 8.0 on. **No GPU has run them yet**: no timing
is known. What is known without one is below; `python benchmarks/gpu.py --json gpu.json` does the rest on a GPU in one
run of less than ten minutes: correctness first, every part in a process of its own with a time limit.

| kernel | file | what it does |
|---|---|---|
| K1 | `small.cu` | up to 32 samples: bound by reading the weights once; activations of 8 or 16 bits or bfloat16 |
| K2 | `gemm.cu` | more samples: activations through shared memory; wgmma on Hopper, mma.sync elsewhere |
| K2 | `hopper.cu` | linear layers on Hopper, on request: one warp fetches by copies in bulk, eight multiply |
| K3 | `small.cu` | the same as K1 from a bitmap and signs, and without the tiles that hold no code |
| K4 | `gemm.cu` | convolution as K2 over patches that are never written down; residual, ReLU, next layer's maximum |
| K5 | `quantize.cu` | activations to bytes, one scale a sample; on several blocks where the largest value is known |

A fused chain (`fuse`) is two launches a layer, K5 and K4: K4 leaves the largest magnitude of each sample behind, so
that the next layer is quantized without a pass that looks for it. Linear layers take zero points: K5 sums each group of
a sample's integers, K1 and K2 take a multiple away. The mode `exact` and grouped convolutions run by the reference.

They run where a layer of `pack_model(..., mode="accurate"` or `"int8")` gets CUDA tensors; groups of columns must be
whole tiles of 128, or else the reference runs (`robustq.kernels.status()` says what does). The sources are package
data. NVRTC, which torch's CUDA builds bring along, compiles a variant at its first use; the machine code is kept in the
user's cache folder by the hash of all that goes in. `ROBUSTQ_CUDA_ARCHS="80;90a" pip install .` builds it with nvcc
instead. `ROBUSTQ_CUDA_GEMM=specialised` takes `hopper.cu` (compute capability 9.0) in the place of `gemm.cu`, which
stays the default until a GPU has shown which is faster. A CUDA graph may hold the kernels once each variant has run;
launches go to torch's current stream.

What the tests show without a GPU:

- The kernels' own text runs on an emulated machine (`tests/kernels/cuda/emulator.h`: a fiber a thread, tensor-core
  operands taken apart as the PTX ISA describes them; copies and products that end when they are waited for; barriers in
  shared memory with phases and bytes) and equals the specification in float64 within 1e-6 of the largest output, at odd
  sizes, in every format and mode. Mistakes put into the kernels (twenty into `hopper.cu`, eight into `gemm.cu`: a wait
  left out, a wrong phase, a wrong count of bytes, a stage given back too early, ...) are each found, and so is a kernel
  that would hang.
- Every variant compiles for every architecture without spills, and the machine code has the instructions it is written
  for. The counts below are of instructions in the code, not of their executions. The 168 registers of `hopper.cu` are
  those at its start: the warps that fetch give theirs back, those that multiply then have 232.

TABLE
"""


CHECKS_PAGE = """# Checks

`robustq benchmark` asks of every model, and of the attacks it stood, what a reviewer would ask. A check passes, warns,
fails, or is skipped with the reason; above one threshold its figure fails, above another it warns, and a higher figure
is always the worse one. Where the literature gives two thresholds the lower one holds. One image of a sample alone
warns at most (RQ006, RQ011).

By default all but the most expensive run; `--checks all` runs those too, `--checks none` runs none. With `--strict` a
check that fails is a missed gate: exit status 1. In the report they are the `checks` of a model
([report.md](report.md)); in Python, `robustq.core.diagnostics.run(Evidence(...))`.

Costs: *free*, read off what the attacks found; *single*, a few passes over at most 128 images; *unbounded*, an attack
on at most 64 images; *all*, as much as an attack.

| id | name | what is measured | unit | fails above | warns above | cost | what to do |
|---|---|---|---|---|---|---|---|
TABLE
"""


def checks() -> str:
    """Every diagnostic of `benchmark`."""
    rows = []
    for check in CHECKS:
        bounds = ["-" if bound is None else f"{bound:g}" for bound in (check.fail, check.warn)]
        cells = [check.id, check.name, check.what, check.unit, *bounds, check.cost, check.remedy]
        rows.append(f"| {' | '.join(cell(text) for text in cells)} |")
    return HEAD + CHECKS_PAGE.replace("TABLE", "\n".join(rows))


def cell(text: str) -> str:
    """Text for a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def main(check: bool) -> int:
    """The exit status: 1 where `check` finds a stale file."""
    stale = []
    pages = {
        "commands.md": commands(),
        "methods.md": methods(),
        "checks.md": checks(),
        "cuda.md": cuda(),
        figures.PAGE.name: figures.page(json.loads(figures.RECORD.read_text(encoding="utf-8"))),
        results.PAGE.name: results.page(results.rows(), results.recorded()),
    }
    for name, text in pages.items():
        path, text = HERE / name, text.rstrip() + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
