"""Packing and unpacking of every storage encoding: python benchmarks/encodings.py [--million 16] > encodings.json

MB/s of int8 codes (one byte a weight), medians of CPU time, one thread, beside a copy of as many bytes (`copy`), which
is what the memory allows. All encodings are read and written as the file format does it, checks included.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from robustq.core import encodings
from robustq.kernels import status

SECONDS = 0.7  # for each row
KINDS = {  # name -> (levels, binary, share of zeros)
    "bits": (1, True, 0.0),
    "base3": (1, False, 0.3),
    "u3": (3, False, 0.0),
    "u4": (7, False, 0.0),
    "u8": (127, False, 0.0),
    "bitmap ternary 50%": (1, False, 0.5),
    "rice ternary 70%": (1, False, 0.7),
    "rice ternary 90%": (1, False, 0.9),
    "rice ternary 99%": (1, False, 0.99),
    "bitmap u4 50%": (7, False, 0.5),
    "rice u4 90%": (7, False, 0.9),
}


def draw(n: int, levels: int, binary: bool, zeros: float) -> torch.Tensor:
    """Codes of the alphabet, even but for the share of zeros (more than chance gives only where it is not 0)."""
    rng = np.random.default_rng(0)
    kept = rng.integers(1, levels + 1, n, dtype=np.int8) * rng.choice(np.array([-1, 1], np.int8), n)
    if not binary:
        kept[rng.random(n) < zeros] = 0
    return torch.from_numpy(kept)


def rate(run: Callable[[], Any], n: int) -> float:
    """MB/s, from the median CPU time of a call."""
    run()
    times: list[float] = []
    end = time.monotonic() + SECONDS
    while not times or time.monotonic() < end:
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return round(n / 1e6 / statistics.median(times), 1)


def measure(name: str, n: int) -> dict[str, Any]:
    levels, binary, zeros = KINDS[name]
    codes = draw(n, levels, binary, zeros)
    header, payload = encodings.pack_codes(codes, levels, binary)
    if header["encoding"] != name.split()[0]:
        raise RuntimeError(f"{name} came out as {header['encoding']}")
    header |= {"levels": levels, "binary": binary}
    assert torch.equal(encodings.unpack_codes(header, payload, n), codes)
    return {
        "name": name,
        "bits_a_weight": round(8 * len(payload["codes"]) / n, 3),
        "pack": rate(lambda: encodings.pack_codes(codes, levels, binary), n),
        "unpack": rate(lambda: encodings.unpack_codes(header, payload, n), n),
        "copy": rate(lambda: codes.clone(), n),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", type=float, default=16, help="weights of the tensor, in 2^20")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in KINDS:
        rows.append(measure(name, int(options.million * 2**20)))
        print(rows[-1], file=sys.stderr, flush=True)
    json.dump({"status": status(), "weights": int(options.million * 2**20), "encodings": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
