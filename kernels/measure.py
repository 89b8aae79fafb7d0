"""Time, error and share of the roofline of packed linear layers, beside other libraries' (peers.py), on this machine.

All candidates of a setting take turns inside one process and thread, so that a busy machine slows them alike; times are
medians of the thread's CPU time, and only ratios within one setting mean much. "hot": two calls before the one that is
timed; "cold": a buffer larger than the last-level cache is read before. Every output is compared with float64.

Ternary layers in modes "exact" and "accurate" are measured from lists of what is not zero too (kernel "sparse"), from
half zeros on; `automatic` marks the kernel that a call would take by itself.

The roofline is max(bytes / bandwidth, multiply-adds / peak), both measured in the same turns: bandwidth by reading as
many bytes, as hot or cold as the weights; the peak by the fastest multiplication from registers (native `peak`). Of
lists, an entry and a row count as one multiply-add of float32; mode "exact" is float32 by codes, which a matrix unit
multiplies in two or three steps.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import backend, lowbit, sparse
from .modules import PackedLinear
from .peers import BLOCK, Layer, Run, peers

LARGEST = 768 * 2**20  # bytes read to make a call cold
PEAK_ROUNDS = 20_000
KERNELS = {"dense": "never", "sparse": "always"}  # as sparse.py's choice
LEAST = 3  # turns, however long they take


@dataclass(frozen=True)
class Setting:
    """One layer at one batch: (out, in), rows of x, the share of zeros among the weights, bits, hot or cold."""

    out: int
    columns: int
    batch: int
    bits: int = 2
    zeros: float = 0.5
    cold: bool = False

    @property
    def candidates(self) -> tuple[tuple[str, str], ...]:
        """(mode, kernel) of each of our kernels."""
        modes = ("exact", "accurate", "int8")
        lists = modes[:2] if self.bits == 2 and self.zeros >= 0.5 else ()
        return (*((mode, "dense") for mode in modes), *((mode, "sparse") for mode in lists))

    def __str__(self) -> str:
        cache = "cold" if self.cold else "hot"
        return f"{self.bits}-bit {self.out}x{self.columns} batch {self.batch} zeros {self.zeros:g} {cache}"


SHORT = (  # the most important first: the time may be up
    Setting(4096, 4096, 1),
    Setting(4096, 4096, 16),
    Setting(4096, 4096, 1, bits=4),
    Setting(4096, 4096, 16, bits=4),
    Setting(4096, 4096, 1, cold=True),
    Setting(4096, 4096, 256),
    Setting(4096, 4096, 256, zeros=0.9),
    Setting(4096, 4096, 256, bits=4),
    Setting(512, 4608, 256, zeros=0.9),
)


def table(
    settings: Iterable[Setting], seconds: float, until: float | None = None
) -> Iterator[tuple[list[Any], list[str]]]:
    """(rows, notes) for each setting, `seconds` of measuring each; none is begun after `until` (time.monotonic()).

    A row is {name, shape [out, in], batch, zeros, bits, cache, mode, isa, us, baselines {name: us}, max_error,
    roofline_us, roofline_fraction}; notes say which baselines are absent and which settings were not reached.
    RuntimeError without the native module.
    """
    if backend.native is None:
        raise RuntimeError(f"the native kernels are not there: {backend.reason}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for setting in settings:
            if until is not None and time.monotonic() > until:
                yield [], [f"{setting}: not measured, the time was up"]
            else:
                yield measure(setting, seconds)
    finally:
        torch.set_num_threads(before)


def measure(setting: Setting, seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one setting, one for each of our kernels, and what is to be said about them."""
    layer = draw(setting)
    theirs, notes = peers(layer, setting.zeros)
    ours = {(mode, kernel): packed(layer, mode, kernel) for mode, kernel in setting.candidates}
    largest = torch.zeros(max(made.nbytes for made in ours.values()) // 256 * 256, dtype=torch.uint8)
    runs: dict[str, Callable[[], Any]] = {f"ours/{mode}/{kernel}": made.run for (mode, kernel), made in ours.items()}
    runs |= theirs
    runs["read"] = lambda: backend.native.read(largest.data_ptr(), largest.nbytes)
    for name in ("bytes", "codes", "floats"):
        runs[name] = lambda name=name: backend.native.peak(name, PEAK_ROUNDS)
    kernels = {f"ours/{mode}/{kernel}": KERNELS[kernel] for mode, kernel in ours}
    times = take_turns(runs, seconds, evict() if setting.cold else None, kernels)
    exact = F.linear(layer.x.double(), layer.weight.double())
    traffic = layer.x.nbytes + 4 * exact.numel()
    density = float((layer.codes != 0).sum()) / layer.codes.numel()
    rows = []
    for (mode, kernel), made in ours.items():
        kind = "floats" if kernel == "sparse" else "codes" if mode == "exact" else "bytes"
        rate = backend.native.peak(kind, PEAK_ROUNDS) / times[kind]
        bound = max((made.nbytes + traffic) * times["read"] / largest.nbytes, setting.batch * made.products / rate)
        us = times[f"ours/{mode}/{kernel}"]
        least = sparse.needed_zeros(setting.out, setting.batch, mode) if setting.bits == 2 else None
        with sparse.choice(KERNELS[kernel]):
            error = float((made.run().double() - exact).abs().max() / exact.abs().max())
        best = "sparse" if least is not None and 1 - density >= least else "dense"
        rows.append(
            {
                "name": "linear",
                "shape": [setting.out, setting.columns],
                "batch": setting.batch,
                "zeros": setting.zeros,
                "bits": setting.bits,
                "cache": "cold" if setting.cold else "hot",
                "mode": mode,
                "kernel": kernel,
                "automatic": kernel == best,
                "isa": backend.native.isa(),
                "us": round(us, 2),
                "baselines": {name: round(times[name], 2) for name in theirs},
                "max_error": error,
                "roofline_us": round(bound, 2),
                "roofline_fraction": round(bound / us, 4),
            }
        )
    return rows, [f"{setting}: {note}" for note in notes]


def draw(setting: Setting) -> Layer:
    """Gaussian x; codes with the share of zeros, else even; scales of one size, a row's, or a block's at 4 bits.

    The same numbers in every process.
    """
    rng = torch.Generator().manual_seed(0)
    shape = (setting.out, setting.columns)
    highest = lowbit.HIGHEST[setting.bits]
    signs = 2 * torch.randint(0, 2, shape, generator=rng) - 1
    if setting.bits == 2:
        codes = signs * (torch.rand(shape, generator=rng) >= setting.zeros)
    else:
        codes = torch.randint(-highest, highest + 1, shape, generator=rng)
    groups = 1 if setting.bits == 2 else -(-setting.columns // BLOCK)
    scale = torch.rand(setting.out, groups, generator=rng) + 0.5
    return Layer(torch.randn(setting.batch, setting.columns, generator=rng), codes.to(torch.int8), scale, setting.bits)


@dataclass(frozen=True)
class Made:
    """One of our layers as a call; the bytes of its weight, and the products (or additions) of a row."""

    run: Run
    nbytes: int
    products: int


def packed(layer: Layer, mode: str, kernel: str) -> Made:
    """A `PackedLinear`, called as a network calls it."""
    out, columns = layer.codes.shape
    made = PackedLinear(layer.codes, layer.scale, None, mode, layer.bits).eval()
    if kernel == "dense":
        products = lowbit.PLANES.get(mode, 1) * layer.codes.numel()
        return Made(lambda: made(layer.x), made.packed.nbytes + made.scale.nbytes, products)
    with sparse.choice("always"):
        lists = sparse.lists_for(made.packed, out, columns, len(layer.x), mode)
    return Made(lambda: made(layer.x), lists.nbytes + made.scale.nbytes, lists.entries)


def take_turns(
    runs: dict[str, Callable[[], Any]],
    seconds: float,
    prepare: Callable[[], Any] | None,
    kernels: Mapping[str, str],
    clock: Callable[[], int] = time.thread_time_ns,
) -> dict[str, float]:
    """Median CPU time of a call in microseconds, by name; before each, `prepare` or two calls that are not timed.

    kernels  name -> the choice of sparse.py during its turn, "auto" for others.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < LEAST:
        for name, run in runs.items():
            with sparse.choice(kernels.get(name, "auto")):
                for warm in (prepare,) if prepare else (run, run):
                    warm()
                start = clock()
                run()
                end_of_run = clock()
            times[name].append((end_of_run - start) / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def evict() -> Callable[[], Any]:
    """Reads a buffer larger than the last-level cache."""
    sizes = [LARGEST]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 1) * 5 // 4)
    size = LARGEST if len(sizes) == 1 else min(LARGEST, max(sizes[1:]))
    buffer = torch.ones(size // 256 * 256, dtype=torch.uint8)
    return lambda: backend.native.read(buffer.data_ptr(), buffer.nbytes)
