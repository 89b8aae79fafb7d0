"""Packed linear layers beside other libraries, in every shape of docs/kernels.md: python benchmarks/kernels.py > k.json

How it measures is told in `robustq.kernels.measure`; `robustq bench --kernels` is the short form. `--only 4096x4096`
selects by what stands in a setting's name, such as "cold" or "4-bit". Whole networks are in `networks.py`.
"""

import argparse
import json
import platform
import sys
from typing import Any

import torch

from robustq.kernels import backend, status
from robustq.kernels.measure import Setting, table

SHAPES = ((4096, 4096), (1024, 1024), (11008, 4096), (512, 4608))
SETTINGS = [
    *(Setting(*shape, batch, bits=bits) for shape in SHAPES for bits in (2, 4) for batch in (1, 16, 256)),
    *(Setting(*shape, 1, bits=bits, cold=True) for shape in SHAPES for bits in (2, 4)),
    *(Setting(4096, 4096, batch, zeros=zeros) for batch in (1, 16, 256) for zeros in (0.8, 0.9, 0.95)),
]
NARROW = [Setting(4096, 4096, 1, bits=bits) for bits in (2, 4)]  # again with AVX2, where that is not the widest


def tell(rows: list[dict[str, Any]], notes: list[str]) -> None:
    """What was just measured, on stderr."""
    for row in rows:
        ratios = {name: round(us / row["us"], 2) for name, us in row["baselines"].items()}
        what = f"{row['bits']}-bit {row['shape']} batch {row['batch']} zeros {row['zeros']} {row['cache']}"
        how = f"{row['mode']} {row['kernel']} {row['isa']}"
        print(what, how, row["us"], ratios, row["roofline_fraction"], file=sys.stderr, flush=True)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each setting")
    options = parser.parse_args()
    if backend.native is None:
        parser.error(f"there are no native kernels to measure: {backend.reason}")
    widest = backend.native.isa()
    plans = {widest: SETTINGS}
    if "avx2" in backend.native.available() and widest not in ("scalar", "avx2"):
        plans["avx2"] = NARROW
    rows = []
    for isa, settings in plans.items():
        backend.native.use(isa)
        chosen = [setting for setting in settings if options.only in f"{setting} {isa}"]
        for found, notes in table(chosen, options.seconds):
            rows += found
            tell(found, notes)
    backend.native.use(widest)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    json.dump({"status": status(), "machine": machine, "kernels": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
