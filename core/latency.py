"""How long a forward pass takes."""

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from .inference import device_of, frozen

_WARM_UP = 3
_RUNS = 100
_SECONDS = 0.5  # of measuring, if that comes first; never fewer than three runs


def median_ms(model: nn.Module, x: Tensor) -> float:
    """x (n, c, h, w) in [0, 1] -> median milliseconds of a forward pass of this batch, with the threads torch has."""
    x = x.to(device_of(model, x.device))
    times: list[float] = []
    with frozen(model), torch.no_grad():
        for _ in range(_WARM_UP):
            model(x)
        begun = time.perf_counter()
        while len(times) < 3 or (len(times) < _RUNS and time.perf_counter() - begun < _SECONDS):
            _synchronize(x)
            start = time.perf_counter()
            model(x)
            _synchronize(x)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def in_turns(models: Mapping[str, nn.Module], x: Tensor) -> dict[str, float]:
    """Median milliseconds of each model on the same batch, taking turns so that a busy machine slows them alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    with ExitStack() as stack, torch.no_grad():
        for model in models.values():
            stack.enter_context(frozen(model))
            x = x.to(device_of(model, x.device))
            model(x)
        begun = time.perf_counter()
        turns = 0
        while turns < 3 or (turns < _RUNS and time.perf_counter() - begun < _SECONDS):
            turns += 1
            for name, model in models.items():
                model(x)  # brings its weights back into the caches
                _synchronize(x)
                start = time.perf_counter()
                model(x)
                _synchronize(x)
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _synchronize(x: Tensor) -> None:
    """Wait for the device: a CUDA call returns before its work is done."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
