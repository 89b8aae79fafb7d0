"""Attacks of robustq against their peers on one model: how fast, and whether they agree. One thread.

    python benchmarks/attacks.py small_cnn_at.pt --arch examples/architectures.py:small_cnn --data fashion-mnist
    python benchmarks/attacks.py small_cnn_at.pt --attack apgd-ce,autoattack --arch ... --data fashion-mnist
    python benchmarks/attacks.py small_cnn_at.pt --agreement --limit 1000 --out agreement.json --arch ... --data ...

Speed: the same job with dropping, without it, and by the peer take turns inside one process, so that a busy machine
slows them alike. The least CPU time of the rounds counts, and only ratios within one run mean anything.

Agreement: robust accuracy of each attack and its peers on the same images; the goal is a difference of at most half a
point, and never a weaker attack by more than that. Every part of `--batch` images that a tool has done is kept in the
file --out, and the same command goes on from there.

Peers: torchattacks and foolbox for PGD, AutoAttack (pyautoattack) for the others. They are judged by one forward pass
more, which robustq does inside. Needs benchmarks/requirements-peers.txt in an environment of its own. Prints one JSON
document.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers
import torch
from peers import Run
from torch import Tensor, nn

from robustq.core import architecture, checkpoint, datasets
from robustq.core.attacks.apgd import ApgdCe, ApgdT
from robustq.core.attacks.attack import Attack, State
from robustq.core.attacks.ensemble import AutoAttack
from robustq.core.attacks.fab import FabT
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.pgd import Pgd
from robustq.core.attacks.square import Square
from robustq.core.driver import perturb
from robustq.core.files import write

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")  # what the standard version of AutoAttack consists of
GOAL = 0.005  # of the share of robust images: largest difference between an attack and its peer


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


@dataclass(frozen=True, kw_only=True)
class BoundedFabT(FabT):
    """Leaves an image at its first perturbation within eps, as AutoAttack does, instead of seeking the smallest."""

    minimal = False

    def final(self, state: State, randomized: bool) -> Tensor:
        delta = super().final(state, randomized) - state["clean"]
        return NORMS[self.norm].confine(state["clean"], delta, self.radius)


def our_attack(name: str, args: argparse.Namespace) -> Attack:
    """The attack as its peer's defaults have it."""
    if name == "pgd":
        return Pgd(eps=args.eps, step=args.step, steps=args.steps)
    kinds = {"apgd-ce": ApgdCe, "apgd-t": ApgdT, "fab-t": BoundedFabT, "square": Square, "autoattack": AutoAttack}
    return kinds[name](eps=args.eps)


def ours(name: str, args: argparse.Namespace, drop: bool = True) -> Run:
    attack = our_attack(name, args)
    return lambda model, x, y, seed: perturb(attack, model, x, y, seed=seed, drop=drop).robust


def peers_of(name: str, args: argparse.Namespace) -> dict[str, Run]:
    """The peers of an attack; the first is the one that times refer to."""
    if name == "pgd":
        both = {"torchattacks": peers.torchattacks_pgd, "foolbox": peers.foolbox_pgd}
        return {peer: make(args) for peer, make in both.items() if args.agreement or peer == "torchattacks"}
    return {"autoattack": peers.autoattack(args, STANDARD if name == "autoattack" else [name])}


def timed(run: Run, net: nn.Module, x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, dict[str, float]]:
    """(n,) bool robust, and what it took."""
    model = Counted(net).eval()
    begun = time.process_time()
    robust = run(model, x, y, seed)
    took = time.process_time() - begun
    return robust, {"cpu_s": took, "forwards": model.forwards, "backwards": model.backwards}


def speed(name: str, net: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Tool -> CPU seconds (least of the rounds) and their ratio to the peer's, mean share that survives, passes."""
    others = peers_of(name, args)
    jobs = {"robustq": ours(name, args), "robustq, no dropping": ours(name, args, drop=False), **others}
    rows: dict[str, list[dict[str, float]]] = {tool: [] for tool in jobs}
    for turn in range(args.rounds):
        for tool, run in jobs.items():
            robust, took = timed(run, net, x, y, turn)
            rows[tool].append(took | {"survivors": float(robust.float().mean())})
    least = {tool: min(turn["cpu_s"] for turn in turns) for tool, turns in rows.items()}
    return {
        tool: {
            "cpu_s": round(least[tool], 3),
            "ratio": round(least[tool] / least[next(iter(others))], 3),
            "survivors": round(sum(turn["survivors"] for turn in turns) / args.rounds, 4),
            "forwards_per_image": round(turns[-1]["forwards"] / len(x), 2),
            "backwards_per_image": round(turns[-1]["backwards"] / len(x), 2),
        }
        for tool, turns in rows.items()
    }


def agreement(
    name: str, net: nn.Module, x: Tensor, y: Tensor, args: argparse.Namespace, known: dict[str, Any], keep: Any
) -> dict[str, Any]:
    """Fills `known`: tool -> robust ("1" or "0" for each image done), CPU seconds, passes; `keep` stores it."""
    jobs = {"robustq": ours(name, args), **peers_of(name, args)}
    for begin in range(0, len(x), args.batch):
        for tool, run in jobs.items():
            row = known.setdefault(tool, {"robust": "", "cpu_s": 0.0, "forwards": 0, "backwards": 0})
            if len(row["robust"]) > begin:
                continue
            part, labels = x[begin : begin + args.batch], y[begin : begin + args.batch]
            robust, took = timed(run, net, part, labels, args.seed + begin)  # new draws in every part
            row["robust"] += "".join("1" if one else "0" for one in robust.tolist())
            for what, value in took.items():
                row[what] += value
            keep()
    return known


def compared(known: dict[str, Any]) -> dict[str, Any]:
    """Shares of robust images, images on which the tools differ, and whether the goal is met."""
    own = known["robustq"]
    n = len(own["robust"])
    found: dict[str, Any] = {"n": n, "robust": {tool: row["robust"].count("1") / n for tool, row in known.items()}}
    for tool, row in known.items():
        found.setdefault("passes_per_image", {})[tool] = [row["forwards"] / n, row["backwards"] / n]
        if tool != "robustq":
            gap = found["robust"]["robustq"] - found["robust"][tool]
            differ = sum(a != b for a, b in zip(own["robust"], row["robust"], strict=True))
            ratio = own["cpu_s"] / row["cpu_s"]
            met = abs(gap) <= GOAL + 1e-9
            found[tool] = {"points": round(100 * gap, 2), "differ": differ, "cpu_ratio": round(ratio, 3), "met": met}
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoints")
    parser.add_argument("--attack", help="pgd, apgd-ce, apgd-t, fab-t, square, autoattack; several by commas")
    parser.add_argument("--agreement", action="store_true", help="compare accuracies instead of times")
    parser.add_argument("--out", help="file of the agreement, resumed from where it is there")
    parser.add_argument("--arch", help="as the option of `robustq bench`")
    parser.add_argument("--data", default="fashion-mini", help="as the option of `robustq bench`")
    parser.add_argument("--data-dir")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--step", type=float, default=0.01, help="of PGD")
    parser.add_argument("--steps", type=int, default=40, help="of PGD")
    parser.add_argument("--batch", type=int, default=250, help="of the peer; robustq chooses its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the agreement; rounds have their number")
    args = parser.parse_args()
    everything = "pgd,apgd-ce,apgd-t,fab-t,square,autoattack"
    args.attack = (args.attack or (everything if args.agreement else "pgd,apgd-ce")).split(",")
    for name in args.attack:
        if name not in everything.split(","):
            parser.error(f"--attack {name}: there are {everything}")
    return args


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What results depend on, without paths."""
    names = ("data", "limit", "eps", "step", "steps", "batch", "seed")
    return {name: getattr(args, name) for name in names} | {"torch": torch.__version__}


def _stored(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """The document of --out, if it is there and has the same settings."""
    if not (args.out and Path(args.out).exists()):
        return result
    found = json.loads(Path(args.out).read_text())
    if found["settings"] != result["settings"]:
        raise SystemExit(f"{args.out} was made with {found['settings']}, this is {result['settings']}")
    return found


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    data = datasets.load(args.data, directory=args.data_dir, limit=args.limit)
    x, y = data.batch(torch.arange(len(data)))
    result: dict[str, Any] = {"settings": _settings(args), "models": {}}
    if args.agreement:
        result = _stored(args, result)

    def keep() -> None:
        if args.out:
            write(args.out, (json.dumps(result, indent=1) + "\n").encode(), force=True)

    for path in args.models:
        source = checkpoint.load(path)
        net = architecture.build(source, arch=args.arch)
        entry = result["models"].setdefault(Path(path).name, {"sha256": source.source.sha256, "attacks": {}})
        if entry["sha256"] != source.source.sha256:
            raise SystemExit(f"{args.out} holds results of another {Path(path).name}")
        for name in args.attack:
            if not args.agreement:
                entry["attacks"][name] = speed(name, net, x, y, args)
                continue
            job = entry["attacks"].setdefault(name, {"tools": {}})
            agreement(name, net, x, y, args, job["tools"], keep)
            job["summary"] = compared(job["tools"])
            keep()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
