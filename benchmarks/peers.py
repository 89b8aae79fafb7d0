"""Attacks of other tools, each as a function (model, x, y, seed) -> (n,) bool robust.

The accuracy of a peer is judged by one forward pass of the model on what it returns.
"""

import argparse
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[nn.Module, Tensor, Tensor, int], Tensor]  # model, x (n, c, h, w), y (n,), seed -> (n,) bool robust


def torchattacks_pgd(args: argparse.Namespace) -> Run:
    peer = import_torchattacks()

    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        attack = peer.PGD(model, eps=args.eps, alpha=args.step, steps=args.steps, random_start=True)
        return _in_batches(lambda part, labels: _right(model, attack(part, labels), labels), x, y, args.batch)

    return run


def foolbox_pgd(args: argparse.Namespace) -> Run:
    import foolbox  # pyright: ignore[reportMissingImports]

    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        target = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=args.step, steps=args.steps, random_start=True)

        def one(part: Tensor, labels: Tensor) -> Tensor:
            _, found, _ = attack(target, part, labels, epsilons=args.eps)
            return _right(model, found, labels)

        return _in_batches(one, x, y, args.batch)

    return run


def autoattack(args: argparse.Namespace, members: Sequence[str]) -> Run:
    """AutoAttack as pyautoattack packages it: its members as its standard version sets them."""
    from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]

    def run(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> Tensor:
        peer = AutoAttack(model, norm="Linf", eps=args.eps, seed=seed, version="standard", device=x.device)
        peer.attacks_to_run, peer.verbose = list(members), False
        found, _ = peer.run_standard_evaluation(x, y, batch_size=args.batch)
        return _right(model, found, y)

    return run


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def _in_batches(one: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, batch: int) -> Tensor:
    return torch.cat([one(part, labels) for part, labels in zip(x.split(batch), y.split(batch), strict=True)])


def import_torchattacks() -> Any:
    """torchattacks imports torchvision for attacks that are not used here; its wheel does not load beside CPU torch."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import torchattacks  # pyright: ignore[reportMissingImports]

    return torchattacks
