"""What compressors cost in adversarial training, and robustq's loop against a straightforward one. One thread.

    python benchmarks/training.py cifar-10-batches-py --out training.json

CIFAR ResNet-20, PGD-7 inside, every image attacked to the end by both. The runs take turns batch by batch inside one
process, in an order that rotates, so that a busy machine slows them alike; CPU time counts, and only ratios within one
run mean anything. The ratio of two runs is the median over batches of the ratios of their times on the same batch.

The straightforward loop is what a tutorial has: torchattacks.PGD on the network, cross entropy, backward, SGD, with
the same data, normalisation, batch and attack. Without torchattacks (benchmarks/requirements-peers.txt) it is left out.
Prints one JSON document.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peers
import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.core.architecture import Classifier, create
from robustq.core.datasets.augment import augment
from robustq.core.recipe import Recipe
from robustq.core.training import _Run

GOALS = {"binary-relax": 1.08, "dnr": 1.08, "straightforward": 1.05}  # time at most, or at least, in ours
COMPRESSORS: dict[str, list[dict[str, Any]]] = {
    "plain": [],
    "binary-relax": [{"name": "binary-relax", "bits": 2}],
    "dnr": [{"name": "dnr", "sparsity": 0.95}],
    "dnr + binary-relax": [{"name": "dnr", "sparsity": 0.95}, {"name": "binary-relax", "bits": 2}],
}
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
Step = Callable[[Tensor], None]  # trains on the images at these places


def recipe(args: argparse.Namespace, compress: list[dict[str, Any]]) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {"arch": "resnet", "args": {"depth": args.depth}, "mean": MEAN, "std": STD},
            "data": {"name": args.data, "limit": args.limit, "augment": "crop+flip"},
            "train": {"epochs": 100, "batch_size": args.batch, "lr": 0.01},
            "objective": {"name": "pgd-at"},
            "attack": {"name": "pgd", "eps": "8/255", "steps": 7, "step": "2/255"},
            "compress": compress,
        }
    )


def ours(args: argparse.Namespace, compress: list[dict[str, Any]]) -> Step:
    run = _Run(recipe(args, compress), None, None)
    return lambda index: run._step(index, 0)


def straightforward(args: argparse.Namespace) -> Step:
    run = _Run(recipe(args, []), None, None)  # for its data only
    torch.manual_seed(0)
    model = Classifier(create("resnet", {"depth": args.depth}), MEAN, STD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    attack = peers.import_torchattacks().PGD(model, eps=8 / 255, alpha=2 / 255, steps=7)

    def step(index: Tensor) -> None:
        x, y = run.train_data.batch(index)
        x = augment(x, "crop+flip", (0, "augment", 0), index)
        model.train()
        loss = F.cross_entropy(model(attack(x, y)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(steps: Mapping[str, Step], batches: int, batch: int, images: int) -> dict[str, list[float]]:
    """CPU seconds of each run on each batch, after two that do not count."""
    names = list(steps)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for i in range(batches + 2):
        index = torch.randperm(images, generator=torch.Generator().manual_seed(i))[:batch]
        for name in names[i % len(names) :] + names[: i % len(names)]:
            begun = time.process_time()
            steps[name](index)
            if i >= 2:
                taken[name].append(time.process_time() - begun)
        print(f"\rbatch {i + 1} of {batches + 2}", end="", file=sys.stderr)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The median of the ratios of each batch, and quartiles."""
    found = sorted(a / b for a, b in zip(above, below, strict=True))
    low, middle, high = statistics.quantiles(found, n=4)
    return {"median": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}  # type: ignore[dict-item]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="CIFAR-10: its folder or archive, or cifar10")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--limit", type=int, default=5000, help="images to draw batches from")
    parser.add_argument("--runs", default="plain,binary-relax,dnr,straightforward", help="which, plain among them")
    parser.add_argument("--out", help="also write the document here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.runs.split(",")
    steps = {name: ours(args, compress) for name, compress in COMPRESSORS.items() if name in names}
    if "straightforward" in names and importlib.util.find_spec("torchattacks"):
        steps["straightforward"] = straightforward(args)
    taken = measure(steps, args.batches, args.batch, int(0.8 * args.limit))
    document = {
        "task": f"CIFAR-10 ResNet-{args.depth}, PGD-7 adversarial training, batches of {args.batch}",
        "batches": args.batches,
        "seconds_a_batch": {name: round(statistics.median(t), 4) for name, t in taken.items()},
        "times_plain": {name: ratio(t, taken["plain"]) for name, t in taken.items() if name != "plain"},
        "goals": GOALS,
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__},
    }
    text = json.dumps(document, indent=1)
    print(text)
    if args.out:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
