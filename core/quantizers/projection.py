"""Euclidean projections of weight rows onto {scale * code}: pure functions, exact where exact is cheap.

For fixed codes q the best scale is max(0, <w, q>) / ||q||^2, and codes carry the signs of w, so everything below works
on a = |w| and maximises <a, q> / ||q|| (Yin et al. 2018, Binary-Relax, section 2). w is float32 and finite throughout.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..packed import Quantized, short_float

LEVELS = {1: 1, 2: 1, 3: 3, 4: 7, 8: 127}  # --bits -> codes in [-levels, levels]; 1 bit has no zero code
STARTS = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)  # Lloyd's first scales, in units of max|w| / levels
_SMALL = 500  # rows shorter than this have local optima that several starts avoid
_CHEAP = 50_000_000  # breakpoints (weights * levels) of a tensor up to which `best` means the exact sweep ...
_LONG = 10_000_000  # ... and of one row, which is held in memory six times over
_CHUNK = 4_000_000  # breakpoints of several rows that are swept at once
_FEW = 15  # levels beyond which Lloyd's result is as good and much sooner there
METHODS = ("best", "lloyd", "exact", "released")
RULES = ("exact", "twn", "released")

Projected = tuple[Tensor, Tensor]


@torch.no_grad()
def binary(w: Tensor, count: Tensor | None = None) -> Projected:
    """w (rows, n) -> codes (rows, n) int8 in {-1, 1}, scale (rows, 1) = mean |w|; a zero gets +1.

    `count` (rows, 1) is how many entries of each row are weights, where the others are zero padding.
    """
    scale = w.abs().sum(1, keepdim=True, dtype=torch.float64) / _count(w, count)
    return torch.where(w < 0, -1, 1).to(torch.int8), scale.float()


@torch.no_grad()
def ternary(w: Tensor) -> Projected:
    """w (rows, n) -> codes (rows, n) int8 in {-1, 0, 1}, scale (rows, 1) >= 0; the exact projection, O(n log n).

    With magnitudes in decreasing order and C_t the sum of the first t, the k largest are kept where C_t^2 / t is
    largest (the smallest such t), and the scale is C_k / k. Zero padding cannot change the result.
    """
    a = w.abs()
    ordered = _descending(a)
    sums = ordered.cumsum(1, dtype=torch.float64)
    places = torch.arange(1, w.shape[1] + 1, device=w.device, dtype=torch.float64)
    k = (sums.square() / places).argmax(1, keepdim=True)
    # Equal magnitudes are always kept or dropped together: the last kept one is at least scale / 2, the next is below.
    codes = w.sign() * (a >= ordered.gather(1, k))
    return codes.to(torch.int8), (sums.gather(1, k) / (k + 1)).float()


@torch.no_grad()
def twn(w: Tensor, count: Tensor | None = None) -> Projected:
    """w (rows, n) -> ternary codes (rows, n), scale (rows, 1); threshold 0.7 mean |w| (Li & Liu 2016), for replication.

    The scale is the mean of the kept magnitudes. `count` as in `binary`.
    """
    kept, sums, _ = _thresholded(w, count)
    number = kept.sum(1, keepdim=True)
    return (w.sign() * kept).to(torch.int8), (sums / number.clamp(min=1)).float()


@torch.no_grad()
def released(w: Tensor, count: Tensor | None = None) -> Projected:
    """w (rows, n) -> ternary codes (rows, n), scale (rows, 1), as the authors' released Binary-Relax code has them.

    Threshold as `twn`, but the scale is the mean over all entries, zeros included: too small by the density, hence not
    a projection. Only for replication. `count` as in `binary`.
    """
    kept, sums, number = _thresholded(w, count)
    return (w.sign() * kept).to(torch.int8), (sums / number).float()


@torch.no_grad()
def released4(w: Tensor) -> Projected:
    """w (rows, n) -> codes (rows, n) int8 in [-7, 7], scale (rows, 1), as the authors' released 4-bit code has them.

    Step d = max|w| / 15 (at most 10): code 0 up to d, else ceil((|w| / d - 1) / 2) up to 7; then the best scale.
    """
    a = w.abs()
    step = (a.amax(1, keepdim=True) / 15).clamp(max=10)
    q = torch.where(a <= step, 0.0, ((a / _divisor(step) - 1) / 2).ceil().clamp(max=7))
    return _signed(w, q), _best_scale(a, q)


@torch.no_grad()
def uniform(w: Tensor, levels: int, method: str = "best", start: Tensor | None = None) -> Projected:
    """w (rows, n) -> codes (rows, n) int8 in [-levels, levels], scale (rows, 1) >= 0.

    method  "exact": the global optimum, by a sweep over all breakpoints, O(n levels log(n levels));
            "lloyd": alternate codes and scale until the scale repeats (at most 50 times); six starts where n < 500;
            "best": exact where that is cheap, else Lloyd from six scales
    start   (rows, 1) a scale to begin Lloyd's iteration with, such as that of the last training step; rows where it is
            0 begin as if there were none. With it only this start is tried and `method` is not used.
    """
    a = w.abs()
    cheap = levels <= _FEW and w.numel() * levels <= _CHEAP and w.shape[1] * levels <= _LONG
    exact = method == "exact" or (method == "best" and cheap)
    if exact and start is None:
        q = _sweep(a, levels)
        return _signed(w, q), _best_scale(a, q)
    several = start is None and (method == "best" or w.shape[1] < _SMALL)
    return _lloyd(
        w, levels, lambda v: v.add_(0.5).floor_().clamp_(max=levels), STARTS if several else STARTS[-1:], start
    )


@torch.no_grad()
def powers_of_two(w: Tensor, exponents: int, start: Tensor | None = None) -> Projected:
    """w (rows, n) -> codes (rows, n) int8 in {0, +-1, +-2, ..., +-2^(exponents - 1)}, scale (rows, 1); exponents 1..7.

    Lloyd's iteration as in `uniform`, with the nearest power of two (the larger on ties) instead of rounding.
    """
    alphabet = torch.tensor([0.0, *(2.0**e for e in range(exponents))], device=w.device)
    edges = (alphabet[1:] + alphabet[:-1]) / 2
    starts = STARTS if w.shape[1] < _SMALL else STARTS[-1:]
    return _lloyd(w, 2 ** (exponents - 1), lambda v: alphabet[torch.bucketize(v, edges, right=True)], starts, start)


@torch.no_grad()
def quantize(
    w: Tensor,
    bits: int,
    group: str | int = "channel",
    method: str = "best",
    rule: str = "exact",
    start: Tensor | None = None,
) -> Quantized:
    """w (out, ...) float -> its projection with one scale a group, scales already rounded as they are stored.

    bits    1 binary, 2 ternary, 3, 4 or 8: codes in [-L, L] with L = 3, 7 or 127
    group   "layer", "channel" (first axis) or a number N: see `grouped`
    method  "best", "lloyd" or "exact" as in `uniform`, or "released" (4 bits only); no effect below 3 bits
    rule    "exact", "twn" or "released": how 2 bits are projected
    start   `scale` of an earlier result for the same tensor and group, to begin Lloyd's iteration with
    """
    check(bits, group, method, rule)
    rows, count, groups = grouped(w.detach(), group)
    if bits == 1:
        codes, scale = binary(rows, count)
    elif bits == 2:
        codes, scale = {"exact": lambda v, _: ternary(v), "twn": twn, "released": released}[rule](rows, count)
    elif method == "released":
        codes, scale = released4(rows)
    else:
        first = None if start is None else start.reshape(-1, 1).to(rows)
        codes, scale = uniform(rows, LEVELS[bits], method, first)
    axis = 1 if group == "layer" else w.shape[0]
    codes = codes.reshape(axis, -1)[:, : w.numel() // axis].reshape(w.shape)
    return Quantized(codes, short_float(scale.reshape(axis, groups)), LEVELS[bits], binary=bits == 1)


def check(bits: int, group: str | int, method: str = "best", rule: str = "exact") -> None:
    """Raise OptionError for options that `quantize` does not know or that do not go together."""
    for name, value, known in (("bits", bits, LEVELS), ("method", method, METHODS), ("ternary rule", rule, RULES)):
        if value not in known:
            raise OptionError(f"{name} is {value!r}.", f"It can be one of: {', '.join(map(str, known))}.")
    if method == "released" and bits != 4:
        raise OptionError(f"method=released is for 4 bits, not {bits}.", "Use method=best, lloyd or exact.")
    if group not in ("layer", "channel") and not (str(group).isdecimal() and int(group) > 0):
        raise OptionError(f"group is {group!r}.", "It can be channel, layer or a number of weights such as 64.")


def grouped(w: Tensor, group: str | int) -> tuple[Tensor, Tensor, int]:
    """w (out, ...) -> rows (out * groups, width) float32, count (out * groups, 1) of weights in each, groups a channel.

    "layer" is one row, "channel" one a first-axis entry. A number N cuts each channel's n weights, in storage order,
    into ceil(n / N) groups of equal width (at most N); a shorter last group is padded with zeros, which `count` leaves
    out. This is the layout of `packed.Quantized`.
    """
    flat = w.float().reshape(1 if group == "layer" else w.shape[0], -1)
    n, groups = flat.shape[1], 1
    if group not in ("layer", "channel"):
        groups = math.ceil(n / int(group))
    width = math.ceil(n / groups)
    count = torch.full((groups,), width, device=w.device)
    count[-1] = n - width * (groups - 1)
    if padding := groups * width - n:
        flat = torch.nn.functional.pad(flat, (0, padding))
    return flat.reshape(-1, width), count.repeat(flat.shape[0]).unsqueeze(1), groups


def _lloyd(
    w: Tensor, levels: int, nearest: Callable[[Tensor], Tensor], starts: tuple[float, ...], start: Tensor | None
) -> Projected:
    """The best codes over several first scales; `nearest` maps |w| / scale (it may overwrite it) to codes."""
    a = w.abs()
    top = a.amax(1, keepdim=True) / levels
    best = _descend(a, top * starts[-1] if start is None else torch.where(start > 0, start, top), nearest)
    if start is None and len(starts) > 1:
        fit = _fit(a, nearest(a / _divisor(best)))
        for factor in starts[:-1]:
            scale = _descend(a, top * factor, nearest)
            other = _fit(a, nearest(a / _divisor(scale)))
            best, fit = torch.where(other > fit, scale, best), torch.maximum(other, fit)
    q = nearest(a / _divisor(best))
    return _signed(w, q), _best_scale(a, q)


def _descend(a: Tensor, scale: Tensor, nearest: Callable[[Tensor], Tensor]) -> Tensor:
    """Lloyd's iteration on rows a >= 0 (rows, n) from scale (rows, 1): the scales at rest. The error never grows."""
    scale = scale.clone()
    active = torch.arange(len(a), device=a.device)
    for _ in range(50):
        rows = a if len(active) == len(a) else a[active]
        new = _best_scale(rows, nearest(rows / _divisor(scale[active])))
        moved = (new != scale[active]).squeeze(1)
        scale[active] = new
        active = active[moved]
        if not len(active):
            break
    return scale


def _sweep(a: Tensor, levels: int) -> Tensor:
    """a (rows, n) >= 0 -> the codes of the globally best scale. Codes change only where scale = a_i / (j - 1/2)."""
    if len(a) > 1 and a.numel() * levels > _CHUNK:
        middle = len(a) // 2
        return torch.cat([_sweep(a[:middle], levels), _sweep(a[middle:], levels)])
    j = torch.arange(1, levels + 1, device=a.device, dtype=torch.float64)
    points = a.double().unsqueeze(2) / (j - 0.5)  # (rows, n, levels): below it, code i is at least j
    flat = points.flatten(1)
    order = _descending_order(flat)
    place = order // levels
    inner = a.double().gather(1, place).cumsum(1)  # <a, q> after each breakpoint, from the largest scale down
    square = (2 * (order - place * levels) + 1).double().cumsum(1)  # ||q||^2 grows by j^2 - (j - 1)^2
    best = (inner.square() / square).argmax(1, keepdim=True)
    edge = flat.gather(1, order.gather(1, best))
    return (points >= edge.unsqueeze(2)).sum(2).float() * (a > 0)


def _descending(a: Tensor) -> Tensor:
    """The rows of a in decreasing order. numpy's vectorised sort is some twenty times faster than torch's on a CPU."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.sort(a.numpy(), axis=1)).flip(1)
    return a.sort(dim=1, descending=True).values


def _descending_order(a: Tensor) -> Tensor:
    if a.device.type == "cpu":
        return torch.from_numpy(np.argsort(a.numpy(), axis=1)).flip(1)
    return a.argsort(dim=1, descending=True)


def _thresholded(w: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What |w| >= 0.7 mean |w| keeps (rows, n), the sum of the kept magnitudes and the number of weights (rows, 1)."""
    a, number = w.abs(), _count(w, count)
    kept = (a >= 0.7 * a.sum(1, keepdim=True, dtype=torch.float64) / number) & (a > 0)
    return kept, (a * kept).sum(1, keepdim=True, dtype=torch.float64), number


def _best_scale(a: Tensor, q: Tensor) -> Tensor:
    """argmin_s ||a - s q||, a and q (rows, n) >= 0 -> (rows, 1); 0 where all codes are 0."""
    return ((a * q).sum(1, keepdim=True) / _divisor(q.square().sum(1, keepdim=True))).float()


def _fit(a: Tensor, q: Tensor) -> Tensor:
    """||a||^2 minus the squared error at the best scale, (rows, 1): the larger the better."""
    return (a * q).sum(1, keepdim=True).double().square() / _divisor(q.square().sum(1, keepdim=True))


def _signed(w: Tensor, q: Tensor) -> Tensor:
    return (w.sign() * q).to(torch.int8)


def _divisor(values: Tensor) -> Tensor:
    """values >= 0 with 1 in place of 0, so that an all-zero row gives codes and scale 0."""
    return torch.where(values > 0, values, 1.0)


def _count(w: Tensor, count: Tensor | None) -> Tensor:
    return torch.full((1, 1), w.shape[1], device=w.device) if count is None else count
