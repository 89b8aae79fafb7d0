"""Make core/data/digits.npz from scikit-learn's digits, stored as x (1797, 8, 8) and y (1797,).

    python benchmarks/make_digits.py digits8x8.npz core/data/digits.npz

The order is scikit-learn's; the last 400 images are the test split. The bytes are the same every time.
"""

import sys
from pathlib import Path

import numpy as np

TEST = 400


def main(source: str, out: str) -> None:
    with np.load(source, allow_pickle=False) as stored:
        x, y = stored["x"].astype(np.uint8).reshape(-1, 8, 8), stored["y"].astype(np.uint8)
    split = {"x_train": x[:-TEST], "y_train": y[:-TEST], "x_test": x[-TEST:], "y_test": y[-TEST:]}
    np.savez_compressed(out, allow_pickle=False, **split)
    print(f"{out}: {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2])
