"""Calling a model that is being evaluated: frozen, in batches that fit, its output checked, its passes counted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from .errors import ArchitectureError, DataError, OptionError, WeightError

T = TypeVar("T")
Net = Callable[[Tensor], Tensor]  # x (n, c, h, w) in [0, 1] -> logits (n, classes); an nn.Module or any function

DRAWS = 10  # forward passes whose most frequent answer is that of a randomized model
PROBE_IMAGES = 16  # images that tell whether a model is randomized
_PROBES = 5  # forward passes of each of these
_BATCH = {"cpu": 128, "cuda": 1024}  # the most images at a time; on a CPU larger batches leave the cache
_MEMORY = 1 << 30  # bytes that the activations of a batch may take on a CPU


@contextmanager
def frozen(model: Net) -> Iterator[None]:
    """Evaluation mode and no gradients of weights inside; every module and parameter as it was afterwards."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(m, m.training) for m in model.modules()]
    needs = [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    try:
        for p, _ in needs:
            p.requires_grad_(False)
        yield
    finally:
        for p, wanted in needs:
            p.requires_grad_(wanted)
        for m, training in modes:
            m.training = training


def device_of(model: Net, otherwise: torch.device) -> torch.device:
    """Where the model's tensors are."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return otherwise


def fitting_batch(model: Net, image: Tensor) -> int:
    """How many images (1, c, h, w) fit: activations of one are counted, and taken three times for the way back."""
    device = device_of(model, image.device)
    most = _BATCH.get(device.type, 64)
    if not isinstance(model, nn.Module):
        return most
    total = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    hooks = [m.register_forward_hook(count) for m in model.modules() if not any(True for _ in m.children())]
    try:
        Victim(model, 1).logits(image.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    memory = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else _MEMORY
    return max(1, min(most, memory // max(1, 3 * total)))


def fitting(attempt: Callable[[int], T], asked: int | None, most: int) -> T:
    """attempt(batch) with the batch that is asked for; else with `most`, halved until it fits into memory.

    OptionError where it does not fit.
    """
    batch = asked or most
    while True:
        try:
            return attempt(batch)
        except torch.OutOfMemoryError:
            if asked or batch == 1:
                remedy = "Use --batch-size auto, or a smaller one." if batch > 1 else "Use another device."
                raise OptionError(f"{batch} images at a time do not fit into memory.", remedy) from None
        batch //= 2
        torch.cuda.empty_cache()  # outside of the handler, which keeps the failed attempt's tensors alive


class Victim:
    """A model under evaluation: `batch` images at a time, `draws` forward passes for each answer, passes counted."""

    def __init__(self, model: Net, batch: int, draws: int = 1) -> None:
        self.model, self.batch, self.draws = model, batch, draws
        self.forwards = self.backwards = 0  # images through the model, and back

    def logits(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, classes), without a gradient."""
        with torch.no_grad():
            return self(x)

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> (n, classes), checked; gradients as the caller's mode says."""
        try:
            logits = self.model(x)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self.forwards:
                raise
            shape = "x".join(str(s) for s in x.shape[1:])
            reason = str(error).strip().partition("\n")[0]
            raise ArchitectureError(
                f"The model cannot be run on images of {shape}: {reason}", "Check that model and data belong together."
            ) from error
        self.forwards += len(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ArchitectureError(
                f"The model gives {found} for {len(x)} images.", "A classifier gives logits (images, classes >= 2)."
            )
        if logits.isnan().any():
            raise WeightError(
                "The model gives NaN logits, so that no accuracy has a meaning.",
                "Check its weights and its normalisation (a std of 0?).",
            )
        return logits

    def answers(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, c, h, w), labels (n,) -> predicted classes (n,) int64; labels are checked against the classes."""
        return self.judged(x, y)[0]

    def judged(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and (n,) float32 how far apart the label's logit and the highest other one are.

        The distance is inf for randomized models, which are judged by the most frequent of their answers.
        """
        device = device_of(self.model, x.device)
        found: list[Tensor] = []
        margins = torch.full(y.shape, torch.inf)
        for part, labels in zip(x.split(self.batch), y.split(self.batch), strict=True):
            part = part.to(device)
            logits = self.logits(part)
            _check_labels(labels, logits.shape[1])
            if self.draws == 1:
                margins[sum(map(len, found)) :][: len(part)] = _distance(logits, labels.to(device)).cpu()
            votes = torch.zeros_like(logits)
            for draw in range(self.draws):
                top = (logits if draw == 0 else self.logits(part)).argmax(1, keepdim=True)
                votes.scatter_add_(1, top, torch.ones_like(top, dtype=votes.dtype))
            found.append(votes.argmax(1).to(y.device))
        return (torch.cat(found) if found else y.clone()), margins

    def rightly(self, x: Tensor, y: Tensor) -> Tensor:
        """x (n, c, h, w), labels (n,) -> (n,) the share of `draws` passes in which the answer is the label."""
        hits = [torch.zeros(len(y), device=y.device) for _ in range(self.draws)]
        for hit in hits:
            for rows in torch.arange(len(y)).split(self.batch):
                part = x[rows].to(device_of(self.model, x.device))
                hit[rows] = (self.logits(part).argmax(1).to(y.device) == y[rows]).float()
        return torch.stack(hits).mean(0)


def is_randomized(model: Net, x: Tensor) -> bool:
    """Whether equal inputs x (n, c, h, w) give different logits: by more than 1e-4 of their length in five passes."""
    victim = Victim(model, len(x))
    x = x.to(device_of(model, x.device))
    first, *others = [victim.logits(x) for _ in range(_PROBES)]
    tolerance = 1e-4 * first.norm(dim=1)
    return any(bool(((other - first).norm(dim=1) > tolerance).any()) for other in others)


def check_inputs(x: Tensor, y: Tensor) -> None:
    """DataError unless x (n, c, h, w) is float in [0, 1] and y (n,) int64 belongs to it."""
    if x.dim() != 4 or not x.is_floating_point() or y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise DataError(
            f"Images {tuple(x.shape)} {x.dtype} and labels {tuple(y.shape)} {y.dtype} do not fit.",
            "Images are (n, c, h, w) floats, labels (n,) int64.",
        )
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"Images reach from {x.min():g} to {x.max():g}, outside [0, 1].",
            "Scale them (--data-range); normalisation belongs into the model (--mean, --std).",
        )


def _distance(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (others - logits.gather(1, y[:, None])[:, 0]).abs().float()


def _check_labels(y: Tensor, classes: int) -> None:
    if len(y) and not (y.min() >= 0 and y.max() < classes):
        raise DataError(
            f"Labels reach from {int(y.min())} to {int(y.max())}, but the model has {classes} classes.",
            "Check that model and data belong together.",
        )
