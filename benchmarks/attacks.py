"""Attacks of robustq against their peers on one model: the same job, in turns, one thread, CPU seconds.

    python benchmarks/attacks.py small_cnn_at.pt --arch examples/architectures.py:small_cnn --data fashion-mnist
    python benchmarks/attacks.py small_cnn_at.pt --attack apgd-ce --arch ... --data fashion-mnist

PGD is compared with torchattacks, APGD-CE (100 steps, one start) with AutoAttack as pyautoattack packages it.
Needs benchmarks/requirements-peers.txt (pip install --no-deps -r ...) in an environment of its own. All candidates take
turns inside one process, so that a busy machine slows them alike; the least CPU time of the rounds counts, and only
ratios within one run mean anything. Peers are timed with the forward pass that tells the accuracy, which robustq does
inside. Prints one JSON document.
"""

import argparse
import json
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustq.core import architecture, checkpoint, datasets
from robustq.core.attacks.apgd import ApgdCe
from robustq.core.attacks.attack import Attack
from robustq.core.attacks.pgd import Pgd
from robustq.core.driver import perturb

Run = Callable[[nn.Module, Tensor, Tensor, int], Tensor]  # model, x, y, seed -> (n,) bool robust


class Counted(nn.Module):
    """A model that counts the images that go through it, and those that come back."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forwards = self.backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        self.forwards += len(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)


def robustq_attack(attack: Attack, drop: bool) -> Run:
    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        return perturb(attack, model, x, y, seed=seed, drop=drop).robust

    return run


def torchattacks_pgd(args: argparse.Namespace) -> Run:
    peer = _import_torchattacks()

    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        attack = peer.PGD(model, eps=args.eps, alpha=args.step, steps=args.steps, random_start=True)
        right = []
        for part, labels in zip(x.split(args.batch), y.split(args.batch), strict=True):
            found = attack(part, labels)
            with torch.no_grad():
                right.append(model(found).argmax(1) == labels)
        return torch.cat(right)

    return run


def autoattack_apgd(args: argparse.Namespace) -> Run:
    from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]

    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        peer = AutoAttack(model, norm="Linf", eps=args.eps, seed=seed, version="custom", attacks=["apgd-ce"])
        peer.apgd.n_restarts, peer.verbose = 1, False
        found, _ = peer.run_standard_evaluation(x, y, batch_size=args.batch)
        with torch.no_grad():
            return model(found).argmax(1) == y

    return run


def candidates(args: argparse.Namespace) -> tuple[dict[str, Run], str]:
    """Name -> job, and the name of the peer that ratios refer to."""
    if args.attack == "pgd":
        attack, peer, run = Pgd(eps=args.eps, step=args.step, steps=args.steps), "torchattacks", torchattacks_pgd(args)
    else:
        attack, peer, run = ApgdCe(eps=args.eps), "autoattack", autoattack_apgd(args)
    ours = {"robustq": robustq_attack(attack, drop=True), "robustq, no dropping": robustq_attack(attack, drop=False)}
    return ours | {peer: run}, peer


def _import_torchattacks() -> Any:
    """torchattacks imports torchvision for attacks that are not used here; its wheel does not load beside CPU torch."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import torchattacks  # pyright: ignore[reportMissingImports]

    return torchattacks


def measure(net: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Name -> CPU seconds (least of the rounds), mean accuracy, and passes per image."""
    jobs, peer = candidates(args)
    rows: dict[str, dict[str, Any]] = {name: {"cpu_s": [], "robust": []} for name in jobs}
    for turn in range(args.rounds):
        for name, run in jobs.items():
            model = Counted(net).eval()
            begun = time.process_time()
            robust = run(model, x, y, turn)
            rows[name]["cpu_s"].append(time.process_time() - begun)
            rows[name]["robust"].append(robust.float().mean().item())
            rows[name] |= {"forwards": model.forwards / len(x), "backwards": model.backwards / len(x)}
    for row in rows.values():
        row |= {"cpu_s": min(row["cpu_s"]), "robust": sum(row["robust"]) / args.rounds}
    for row in rows.values():
        row["ratio"] = row["cpu_s"] / rows[peer]["cpu_s"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints")
    parser.add_argument("--attack", choices=("pgd", "apgd-ce"), default="pgd", help="the job")
    parser.add_argument("--arch", help="as the option of `robustq bench`")
    parser.add_argument("--data", default="fashion-mini", help="as the option of `robustq bench`")
    parser.add_argument("--data-dir")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--step", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=250, help="of the peer; robustq chooses its own")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.load(args.data, directory=args.data_dir, limit=args.limit)
    x, y = data.batch(torch.arange(len(data)))
    result: dict[str, Any] = {"options": vars(args), "torch": torch.__version__, "models": {}}
    for path in args.models:
        net = architecture.build(checkpoint.load(path), arch=args.arch)
        result["models"][path] = measure(net, x, y, args)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
