"""The page kernel-figures.md from kernel-figures.json (`python benchmarks/kernels.py`)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RECORD, PAGE = HERE / "kernel-figures.json", HERE / "kernel-figures.md"
HEAD = """<!-- Written by `python docs/generate.py` from kernel-figures.json; edit neither. -->
# Figures of the packed layers

`python benchmarks/kernels.py > docs/kernel-figures.json`: linear layers of random codes, all candidates in turns inside
one process and thread, medians of CPU time; every output was compared with float64. **Hot** is the third call in a row,
**cold** a call after more memory than the last cache holds was read. Under a library's name stands its time divided by
ours: above 1 ours is faster. "Same bits" is onnxruntime's MatMulNBits with blocks of 128 and accuracy level 4. The
roofline is what memory and arithmetic allow, both measured in the same turns.

CONDITIONS
"""
LIBRARIES = {
    "torch_fp32": "torch fp32",
    "torch_dynamic_int8": "torch dynamic int8",
    "torch_csr": "torch CSR",
    "ort_fp32": "ORT fp32",
    "ort_nbits": "ORT same bits",
}
SQUARE = [4096, 4096]
Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What a layer of 4096 x 4096 has to reach against a library: its time by ours."""

    mode: str
    batch: int
    library: str
    least: float
    bits: int = 2
    cache: str = "hot"
    zeros: float = 0.5
    kernel: str = "dense"  # or "either": the one that a call takes by itself
    isa: str = ""  # the widest

    def __str__(self) -> str:
        zeros = f", {self.zeros:.0%} zeros" if self.kernel == "either" else ""
        isa = f", {self.isa} forced" if self.isa else ""
        cache = f" {self.cache}" if self.batch == 1 else ""
        kernel = "" if self.kernel == "either" else f" {self.kernel}"
        return f"{self.bits}-bit {self.mode}{kernel}, batch {self.batch}{cache}{zeros}{isa}"


GOALS = [
    Goal("int8", 1, "torch_fp32", 40),
    Goal("int8", 1, "ort_nbits", 1.7),
    Goal("int8", 1, "torch_fp32", 18, cache="cold"),
    Goal("int8", 1, "ort_nbits", 1.35, cache="cold"),
    Goal("int8", 16, "torch_fp32", 15),
    Goal("int8", 16, "ort_nbits", 2.3),
    Goal("int8", 16, "torch_dynamic_int8", 1.1),
    Goal("int8", 256, "torch_fp32", 9.5),
    Goal("int8", 256, "ort_nbits", 2.2),
    Goal("int8", 256, "torch_dynamic_int8", 1.05),
    *(Goal("accurate", batch, "torch_fp32", least) for batch, least in ((1, 28), (16, 7.5), (256, 4.5))),
    *(
        Goal("exact", 256, "torch_fp32", least, zeros=zeros, kernel="either")
        for zeros, least in ((0.5, 2.5), (0.8, 6), (0.9, 10), (0.95, 17))
    ),
    *(Goal("exact", 256, "torch_csr", 4, zeros=zeros, kernel="either") for zeros in (0.5, 0.8, 0.9, 0.95)),
    *(
        Goal(mode, batch, "ort_nbits", least, bits=4)
        for mode in ("int8", "accurate", "exact")
        for batch, least in ((1, 1.0), (16, 1.8), (256, 1.9))
    ),
    Goal("int8", 1, "torch_fp32", 8, isa="avx2"),
]


def page(record: dict[str, Any]) -> str:
    """The whole document."""
    rows = [renamed(row) for row in record["kernels"]]
    widest = record["status"]["isa"]
    parts = [HEAD.replace("CONDITIONS", record["conditions"])]
    parts += ["## Targets, 4096 x 4096\n", "\n".join(judged(rows, widest)) + "\n"]
    parts += ["## Slower than onnxruntime of the same bits\n", slower(rows, widest) + "\n"]
    for shape in dict.fromkeys(tuple(row["shape"]) for row in rows):
        found = [row for row in rows if tuple(row["shape"]) == shape]
        parts += [f"## {shape[0]} x {shape[1]}\n", "\n".join(table(found)) + "\n"]
    return "\n".join(parts)


def renamed(row: Row) -> Row:
    """MatMulNBits under one name, whatever the bits."""
    return {**row, "baselines": {("ort_nbits" if n.endswith("bit") else n): us for n, us in row["baselines"].items()}}


def judged(rows: list[Row], widest: str) -> Iterator[str]:
    """Each goal beside what was found."""
    yield "| layer | library | at least | found | |"
    yield "|---|---|---|---|---|"
    for goal in GOALS:
        what = f"| {goal} | {LIBRARIES[goal.library]} | {goal.least:g} |"
        row = next((row for row in rows if is_meant(goal, row, widest)), None)
        if row is None or goal.library not in row["baselines"]:
            yield f"{what} | not measured |"
            continue
        found = row["baselines"][goal.library] / row["us"]
        yield f"{what} {found:.2f} | {'met' if found >= goal.least else '**missed**'} |"


def is_meant(goal: Goal, row: Row, widest: str) -> bool:
    """Whether a row is the one that a goal speaks of."""
    keys = ("mode", "batch", "bits", "cache", "zeros")
    return (
        row["shape"] == SQUARE
        and row["isa"] == (goal.isa or widest)
        and all(row[key] == getattr(goal, key) for key in keys)
        and (row["automatic"] if goal.kernel == "either" else row["kernel"] == goal.kernel)
    )


def slower(rows: list[Row], widest: str) -> str:
    """The kernels that a call takes by itself and that lose to MatMulNBits."""
    found = [
        f"{label(row)} {row['shape'][0]} x {row['shape'][1]} ({row['baselines']['ort_nbits'] / row['us']:.2f})"
        for row in rows
        if row["isa"] == widest and row["automatic"] and row["baselines"].get("ort_nbits", row["us"]) < row["us"]
    ]
    return "; ".join(found) + "." if found else "None."


def label(row: Row) -> str:
    """A layer without its shape."""
    cache = f" {row['cache']}" if row["batch"] == 1 else ""
    isa = f" ({row['isa']})" if row["isa"] == "avx2" else ""
    return (
        f"{row['bits']}-bit {row['mode']} {row['kernel']}, batch {row['batch']}{cache}, {row['zeros']:.0%} zeros{isa}"
    )


def table(rows: list[Row]) -> Iterator[str]:
    """All layers of one shape; a star where a call takes another kernel by itself."""
    names = [name for name in LIBRARIES if any(name in row["baselines"] for row in rows)]
    yield f"| layer | us | {' | '.join(LIBRARIES[name] for name in names)} | of the roofline | error |"
    yield "|---" * (len(names) + 4) + "|"
    for row in rows:
        ratios = [f"{row['baselines'][n] / row['us']:.2f}" if n in row["baselines"] else "" for n in names]
        mark = "" if row["automatic"] else " *"
        end = f"{row['roofline_fraction']:.0%} | {row['max_error']:.0e}"
        yield f"| {label(row)}{mark} | {row['us']:,.0f} | {' | '.join(ratios)} | {end} |"
    yield "\n\\* a call takes the other kernel by itself."
