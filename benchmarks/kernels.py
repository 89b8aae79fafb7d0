"""Packed linear layers beside other libraries, in every shape of docs/kernels.md: python benchmarks/kernels.py > k.json

How it measures is told in `robustq.kernels.measure`; `robustq bench --kernels` is the short form. `--only 4096x4096`
selects by what stands in a setting's name, such as "cold" or "4-bit". Whole networks are in `networks.py`.
"""

import argparse
import json
import platform
import sys

import torch

from robustq.kernels import backend, status
from robustq.kernels.measure import Setting, table

SHAPES = ((4096, 4096), (1024, 1024), (11008, 4096), (512, 4608))
SETTINGS = [
    *(Setting(*shape, batch, bits=bits) for shape in SHAPES for bits in (2, 4) for batch in (1, 16, 256)),
    *(Setting(*shape, 1, bits=bits, cold=True) for shape in SHAPES for bits in (2, 4)),
    *(Setting(4096, 4096, 256, zeros=zeros) for zeros in (0.8, 0.9, 0.95)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each setting")
    options = parser.parse_args()
    if backend.native is None:
        parser.error(f"there are no native kernels to measure: {backend.reason}")
    chosen = [setting for setting in SETTINGS if options.only in str(setting)]
    rows = []
    for found, notes in table(chosen, options.seconds):
        rows += found
        for row in found:
            ratios = {name: round(us / row["us"], 2) for name, us in row["baselines"].items()}
            what = f"{row['bits']}-bit {row['shape']} batch {row['batch']} zeros {row['zeros']} {row['cache']}"
            print(what, row["mode"], row["us"], ratios, row["roofline_fraction"], file=sys.stderr, flush=True)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    json.dump({"status": status(), "machine": machine, "kernels": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
