"""Does `bench --attack compressed` tell the truth about models whose gradient is hidden?

    python benchmarks/truth.py small_cnn.pt --data fashion-mnist --data-dir DIR -o truth.json

Seven variants of one adversarially trained network (variants.py). Each is judged by robustq, which is given the variant
and its float parent and nothing else, and by a reference of its own that is computed here with plain torch: the lowest
of the float network's adversarials replayed and an ascent along the gradient of the variant's differentiable twin, for
noise along the mean of 20 draws. Lowest is meant image by image; for noise, where an image has a verdict of its own in
every attack and the lowest of several would be a matter of luck, it is the lowest accuracy of one attack. Exit status 1
where the two differ by more than 2 points, or where the check that should fail does not.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import variants
from torch import Tensor, nn

from robustq.core import datasets
from robustq.core.comparison import evaluate
from robustq.core.recipe import Recipe
from robustq.core.report import Proportion, environment
from robustq.core.scrutiny import Scrutiny

HERE = Path(__file__).parent
FAILS = {
    "activations8": "RQ002", "activations4": "RQ002", "input3": "RQ002", "scaled": "RQ003", "softmax": "RQ005",
    "noisy": "RQ004", "int8": "RQ001",
}  # fmt: skip
POINTS = 2.0
PASSES = 10  # of a randomized model, whose most frequent answer counts, as robustq judges it
VERDICTS = 20  # on a randomized model, averaged: a single one is off by 1.5 points (standard deviation, 500 images)
DRAWS = 20  # averaged in each step on the noisy variant
BATCH = 250

Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--variant", action="append", choices=list(FAILS))
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    data = datasets.load(given.data, "test", directory=given.data_dir, limit=given.limit)
    x, y = data.batch(torch.arange(len(data)))
    parent = weighted(variants.plain(), given.checkpoint)
    replayed = [ascend(parent, x, y, loss, given.eps, given.steps) for loss in (entropy, margin)]
    rows: dict[str, Any] = {}
    for name in given.variant or FAILS:
        rows[name] = row(name, given, x, y, replayed)
        print(line(name, rows[name]), flush=True)
        if given.out:
            record(given, rows, data.sha256)
    return int(not all(found["agrees"] and found["check_failed"] for found in rows.values()))


def row(name: str, given: argparse.Namespace, x: Tensor, y: Tensor, replayed: list[Tensor]) -> dict[str, Any]:
    """What both say about one variant."""
    begun = time.process_time()
    own = reference(name, given, x, y, replayed)
    between = time.process_time()
    entry = judged(name, given)
    found = entry["worst_case"]
    checks = {check["id"]: check["status"] for check in entry["checks"]}
    lowest = own["lowest"]
    return {
        "clean": entry["clean"],
        "robust": found,
        "reference": own,
        "difference_points": round(100 * (found["value"] - lowest), 2),
        "agrees": abs(100 * (found["value"] - lowest)) <= POINTS + 1e-9,
        "expected_check": FAILS[name],
        "check_failed": checks[FAILS[name]] == "fail",
        "failed": [check for check, status in checks.items() if status == "fail"],
        "gradient": entry["gradient"],
        "steps": given.steps,
        "survivors": entry["details"]["compressed"]["survivors"],
        "cpu_seconds": {"reference": round(between - begun, 1), "robustq": round(time.process_time() - between, 1)},
    }


def judged(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """The entry of robustq's report."""
    recipe = Recipe.from_dict(
        {
            "model": {"arch": f"{HERE / 'variants.py'}:{name}"},
            "data": {"name": given.data, "dir": given.data_dir, "limit": given.limit},
            "attack": [{"name": "compressed", "eps": given.eps, "steps": given.steps}],
        }
    )
    scrutiny = Scrutiny(parent=given.checkpoint, parent_arch=f"{HERE / 'variants.py'}:plain")
    return evaluate([given.checkpoint], recipe, scrutiny=scrutiny).content["models"][0]


def reference(name: str, given: argparse.Namespace, x: Tensor, y: Tensor, replayed: list[Tensor]) -> dict[str, float]:
    """Robust accuracy of the variant under each attack of this script."""
    model = weighted(getattr(variants, name)(), given.checkpoint)
    twin = weighted(variants.TWINS[name](), given.checkpoint)
    draws = DRAWS if name == "noisy" else 1
    passes = PASSES if name == "noisy" else 1
    points = {f"replay-{i + 1}": found for i, found in enumerate(replayed)}
    for loss in (entropy, margin):
        points[f"ascent-{loss.__name__}"] = ascend(twin, x, y, loss, given.eps, given.steps, draws)
    robust = {attack: stands(model, x, found, y, passes) for attack, found in points.items()}
    single = {attack: share(verdicts) for attack, verdicts in robust.items()}
    lowest = min(single.values()) if passes > 1 else share(torch.stack(list(robust.values())).all(0))
    return {"lowest": lowest, **single}


def stands(model: nn.Module, x: Tensor, found: Tensor, y: Tensor, passes: int) -> Tensor:
    """(verdicts, n) bool: answered rightly as it is and under attack, each time with draws of its own."""
    times = VERDICTS if passes > 1 else 1
    return torch.stack([(answers(model, x, passes) == y) & (answers(model, found, passes) == y) for _ in range(times)])


def ascend(model: nn.Module, x: Tensor, y: Tensor, loss: Loss, eps: float, steps: int, draws: int = 1) -> Tensor:
    """Signed ascent with momentum in the L-inf ball, its step falling linearly from eps to nothing; the last points."""
    found = []
    for clean, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        point = (clean + eps * (2 * torch.rand_like(clean) - 1)).clamp(0, 1)
        before = point
        for step in range(steps):
            here = point.detach().requires_grad_()
            total = torch.stack([loss(model(here), labels).sum() for _ in range(draws)]).sum()
            (grad,) = torch.autograd.grad(total, here)
            moved = point + eps * (1 - step / steps) * grad.sign() + 0.25 * (point - before)
            before, point = point, (clean + (moved - clean).clamp(-eps, eps)).clamp(0, 1)
        found.append(point)
    return torch.cat(found)


def entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    own = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - own


@torch.no_grad()
def answers(model: nn.Module, x: Tensor, passes: int) -> Tensor:
    """(n,) the most frequent class."""
    votes = torch.stack([torch.cat([model(part).argmax(1) for part in x.split(BATCH)]) for _ in range(passes)])
    return F.one_hot(votes, 10).sum(0).argmax(1)


def share(verdicts: Tensor) -> float:
    """Of images that are answered rightly as they are and under attack."""
    return round(float(verdicts.double().mean()), 6)


def weighted(net: nn.Module, checkpoint: Path) -> nn.Module:
    net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)


def record(given: argparse.Namespace, rows: dict[str, Any], sha256: str) -> None:
    settings = {"data": given.data, "data_sha256": sha256, "n": given.limit, "eps": given.eps, "steps": given.steps}
    facts = {"checkpoint": given.checkpoint.name, **settings, "limit_points": POINTS, "environment": environment()}
    given.out.write_text(json.dumps({**facts, "variants": rows}, indent=2, default=str) + "\n", encoding="utf-8")


def line(name: str, found: dict[str, Any]) -> str:
    own, spent = found["reference"], found["cpu_seconds"]
    n = found["robust"]["n"]
    low, high = Proportion(round(own["lowest"] * n), n).ci95
    return (
        f"{name:13} clean {found['clean']['value']:.3f}  robustq {found['robust']['value']:.3f}  reference "
        f"{own['lowest']:.3f} [{low:.3f}, {high:.3f}]  {found['difference_points']:+.1f} points  "
        f"{'ok' if found['agrees'] else 'OFF'}; {found['expected_check']} "
        f"{'failed' if found['check_failed'] else 'DID NOT FAIL'} (all: {', '.join(found['failed'])}); CPU seconds "
        f"{spent['reference']} and {spent['robustq']}"
    )


if __name__ == "__main__":
    sys.exit(main())
