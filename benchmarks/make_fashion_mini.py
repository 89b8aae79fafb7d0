"""Make core/data/fashion_mini.npz from the official IDX files of Fashion-MNIST.

    python benchmarks/make_fashion_mini.py FOLDER core/data/fashion_mini.npz

The first 100 test images and the first 50 training images of each class, in the order of the official files. The bytes
are the same every time.
"""

import sys
from pathlib import Path

import numpy as np

from robustq.core import datasets

EACH = {"test": 100, "train": 50}


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """labels (n,) -> places of the first `count` of each class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]))


def main(folder: str, out: str) -> None:
    arrays = {}
    for split, count in EACH.items():
        data = datasets.load("fashion-mnist", split, directory=folder)
        if data.notes:
            raise SystemExit("\n".join(data.notes))
        chosen = first_of_each_class(data.labels.numpy(), count)
        arrays[f"x_{split}"] = data.images.numpy()[chosen, 0]
        arrays[f"y_{split}"] = data.labels.numpy()[chosen].astype(np.uint8)
    np.savez_compressed(out, allow_pickle=False, **arrays)
    print(f"{out}: {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2])
