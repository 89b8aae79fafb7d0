"""Every entry point of the native module, on any bytes, sizes and numbers, against numpy.

Needs no torch and no conftest.py: `.ci/run` calls it a second time with the module that AddressSanitizer and UBSan
watch. Arrays have exactly the size that the layout needs, so that a byte too far is seen there.
"""

import ctypes
import itertools
import mmap
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustq.kernels import backend

Array = NDArray[Any]
ISAS = list(backend.native.available()) if backend.native else []
LEVELS = {1: np.float32(127), 2: np.float32(32512)}
ZERO = {2: 1, 4: 8}
pytestmark = pytest.mark.skipif(not ISAS, reason="the native module is not built")
CALLED = re.compile(r"native\.(\w+)\(")
seeds = st.integers(0, 2**32 - 1)


def on_each_isa(call: Callable[[], Array]) -> Iterator[tuple[str, Array]]:
    before = backend.native.isa()
    try:
        for isa in ISAS:
            backend.native.use(isa)
            yield isa, call()
    finally:
        backend.native.use(before)


def at(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data


def activations(rng: np.random.Generator, shape: tuple[int, ...], special: bool) -> Array:
    """Gaussian, or with rows (samples) of zeros, tiny, huge and infinite numbers and NaN among them."""
    x = rng.standard_normal(shape).astype(np.float32)
    if special:
        for row in x.reshape(shape[0], -1):
            place = rng.integers(row.size)
            match rng.integers(7):
                case 0:
                    row *= 0
                case 1:
                    row *= np.float32(1e-33)
                case 2:
                    row *= np.float32(1e25)
                case 3 | 4 as kind:
                    row[place] = np.inf if kind == 3 else np.nan
                case 5:
                    row[place] = -50
    return x


def spread(scale: Array, columns: int) -> Array:
    """scale (rows, groups) -> one a column, (rows, columns)."""
    return np.repeat(scale, -(-columns // scale.shape[1]), axis=1)[:, :columns]


def ternary(words: Array, out: int, columns: int) -> Array:
    """words uint32 (ceil(out / 16), ceil(in / 16), 16) -> what they say, (out, in); the pattern 10 is NaN."""
    fields = words[..., None] >> np.arange(0, 32, 2, dtype=np.uint32) & 3
    flat = fields.transpose(0, 2, 1, 3).reshape(16 * words.shape[0], -1)[:out, :columns]
    return np.array([0, 1, np.nan, -1])[flat]


def codes_of(packed: Array, bits: int, out: int, columns: int, groups: int) -> Array:
    """packed uint8 (ceil(out / 64), steps, 32 bits) -> codes (out, in), one output and column at a time."""
    width = -(-columns // groups)
    column, output = np.arange(columns), np.arange(out)
    padded = column // width * (-(-width // 4) * 4) + column % width
    fields, inside = 8 // bits, output % 64
    byte = (inside // (16 * fields) * 64 + inside % 16 * 4)[:, None] + padded % 4
    stored = packed[(output // 64)[:, None], padded // 4, byte]
    return (stored >> (bits * (inside // 16 % fields))[:, None] & (2**bits - 1)).astype(np.float64) - ZERO[bits]


def steps(columns: int, groups: int) -> int:
    width = -(-columns // groups)
    return columns // width * -(-width // 4) + -(-(columns % width) // 4)


def rounded(x: Array, planes: int) -> Array:
    """x (rows, ...) -> the multiples of each row's scale that stand for it, in float64; planes 0: x."""
    if not planes:
        return x.astype(np.float64)
    flat = x.reshape(len(x), -1)
    most = np.abs(flat).max(1, keepdims=True)
    zero = most < np.float32(1e-30)
    safe = np.where(zero | ~np.isfinite(most), np.float32(1), most)
    with np.errstate(invalid="ignore", over="ignore"):
        values = np.rint(flat * (LEVELS[planes] / safe)).astype(np.float64) * (safe.astype(np.float64) / LEVELS[planes])
    values[zero[:, 0]] = 0
    values[~np.isfinite(most[:, 0])] = np.nan
    return values.reshape(x.shape)


def agree(found: Array, wanted: Array, size: Array, what: object) -> None:
    """Equal up to 1e-5 of `size`, the sum of the magnitudes that each output adds; NaN and infinities alike."""
    assert np.array_equal(np.isnan(found), np.isnan(wanted)), what
    with np.errstate(invalid="ignore"):
        assert np.all((np.abs(found - wanted) <= 1e-5 * size) | (found == wanted) | np.isnan(found)), what


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 150), st.integers(1, 1100), st.booleans(), st.data())
def test_exact_layers(rows: int, out: int, columns: int, special: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(seeds))
    groups, threads = data.draw(st.integers(1, columns)), data.draw(st.integers(1, 3))
    scale = rng.random((data.draw(st.sampled_from([1, out])), groups), np.float32)
    bias = rng.random(out, np.float32) if data.draw(st.booleans()) else None
    words = rng.integers(0, 2**32, (-(-out // 16), -(-columns // 16), 16), np.uint32)
    if data.draw(st.booleans()):
        words &= ~(words >> 1 & ~words & np.uint32(0x55555555)) << 1  # no pattern 10
    weight = ternary(words, out, columns) * spread(scale, columns)
    x = activations(rng, (rows, columns), special)
    with np.errstate(invalid="ignore"):
        wanted = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
        size = np.abs(x.astype(np.float64)) @ np.abs(weight).T + 1

    def linear() -> Array:
        y = np.full((rows, out), np.nan, np.float32)
        numbers = (at(words), at(scale), *scale.shape, at(bias), out, columns, at(y), threads)
        backend.native.linear(at(x), rows, *numbers)
        return y

    def dense() -> Array:
        made = np.full((out, columns), 7, np.float32)
        backend.native.dense(at(words), at(scale), *scale.shape, at(made), out, columns)
        return made

    for isa, y in on_each_isa(linear):
        agree(y, wanted, size, isa)
    for isa, made in on_each_isa(dense):
        assert np.array_equal(made, weight.astype(np.float32), equal_nan=True), isa


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 1600), st.integers(0, 15), st.booleans(), st.data())
def test_triples(out: int, columns: int, corrupt: int, special: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(seeds))
    scale, threads = rng.random((data.draw(st.sampled_from([1, out])), 1), np.float32), data.draw(st.integers(1, 3))
    bias = rng.random(out, np.float32) if data.draw(st.booleans()) else None
    words = rng.integers(0, 2**32, (-(-out // 16), -(-columns // 16), 16), np.uint32)
    words[0, :, corrupt + 1 :] &= ~(words[0] >> 1 & ~words[0] & np.uint32(0x55555555))[:, corrupt + 1 :] << 1
    words[1:] &= ~(words[1:] >> 1 & ~words[1:] & np.uint32(0x55555555)) << 1  # no pattern 10
    weight = ternary(words, out, columns) * scale
    x = activations(rng, (1, columns), special)
    with np.errstate(invalid="ignore"):
        wanted = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
        size = np.abs(x.astype(np.float64)) @ np.abs(weight).T + 1

    def triples() -> Array:
        y = np.full((1, out), np.nan, np.float32)
        made = backend.native.make_triples(at(words), out, columns)
        assert made.nbytes == -(-out // 16) * -(-columns // 18) * 64
        backend.native.triples_linear(made, at(x), at(scale), len(scale), at(bias), at(y), threads)
        return y

    for isa, y in on_each_isa(triples):
        agree(y, wanted, size, isa)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 150),
    st.integers(1, 700) | st.integers(1, 10).map(lambda n: 64 * n),
    st.sampled_from([2, 4]),
    st.booleans(),
    st.data(),
)
def test_integer_layers(rows: int, out: int, columns: int, bits: int, special: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(seeds))
    whole = st.sampled_from(
        [1, -(-columns // 32), -(-columns // 64), -(-columns // 128)]
    )  # as a matrix unit takes them
    groups, threads = data.draw(whole | st.integers(1, columns)), data.draw(st.integers(1, 3))
    planes, relu = data.draw(st.sampled_from([1, 2])), data.draw(st.booleans())
    scale = rng.random((groups, out), np.float32)
    bias = rng.random(out, np.float32) if data.draw(st.booleans()) else None
    packed = rng.integers(0, 256, (-(-out // 64), steps(columns, groups), 32 * bits), np.uint8)
    codes = codes_of(packed, bits, out, columns, groups)
    zero = rng.integers(0, 2**bits, (groups, out), np.uint8) if data.draw(st.booleans()) else None
    if zero is not None:
        codes -= spread(zero.T.astype(np.float64), columns) - ZERO[bits]
    weight = codes * spread(scale.T, columns)
    x = activations(rng, (rows, columns), special)
    values = rounded(x, planes)
    wanted = values @ weight.T + (0 if bias is None else bias)

    def call() -> Array:
        y = np.full((rows, out), 7, np.float32)
        numbers = (bits, groups, out, columns, planes, relu, at(y), threads)
        backend.native.integer_linear(at(x), rows, at(packed), at(scale), at(bias), at(zero), *numbers)
        return y

    def dense() -> Array:
        made = np.full((columns, out), 7, np.float32)
        backend.native.integer_dense(at(packed), at(scale), bits, groups, out, columns, at(made), threads, at(zero))
        return made

    for isa, made in on_each_isa(dense):
        assert np.array_equal(made.T, (codes.astype(np.float32) * spread(scale.T, columns))), isa

    def floats() -> Array:
        y = np.full((rows, out), 7, np.float32)
        numbers = (bits, groups, out, columns, relu, at(y), threads)
        backend.native.float_linear(at(x), rows, at(packed), at(scale), at(bias), at(zero), *numbers)
        return y

    with np.errstate(invalid="ignore"):
        exact = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
        size = np.abs(x.astype(np.float64)) @ np.abs(weight).T + 1
    for isa, y in on_each_isa(floats):
        agree(y, np.where(exact < 0, 0, exact) if relu else exact, size, isa)
    for isa, y in on_each_isa(call):
        size = np.abs(values) @ (np.abs(weight) + 2**bits * (zero is not None)).T + 1
        agree(y, np.where(wanted < 0, 0, wanted) if relu else wanted, size, isa)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 80), st.sampled_from([2, 4]), st.booleans(), st.data())
def test_integer_convolutions(
    batch: int, channels: int, out: int, bits: int, special: bool, data: st.DataObject
) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    rng = np.random.default_rng(data.draw(seeds))
    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 3)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    height, width = (n + extra for n, extra in zip(least, pair(0, 8), strict=True))
    planes, relu, threads = data.draw(st.integers(0, 2)), data.draw(st.booleans()), data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, 1, 2, 5, 37]))
    if groups == 37:  # few channels a group, depthwise with one
        channels, out = data.draw(st.integers(1, 5)), groups * data.draw(st.integers(1, 3))
    out, wide = -(-out // groups) * groups, channels + -channels % 4
    packed = rng.integers(0, 256, (-(-out // 64), kernel[0] * kernel[1] * wide // 4, 32 * bits), np.uint8)
    scale = rng.random((1, out), np.float32)
    codes = codes_of(packed, bits, out, kernel[0] * kernel[1] * wide, 1)
    own = (codes * scale.T).reshape(groups, -1, *kernel, wide)[..., :channels]
    weight = np.zeros((groups, out // groups, *kernel, groups, channels))
    weight[np.arange(groups), :, :, :, np.arange(groups)] = own  # nothing of other groups' channels
    weight = weight.reshape(out, *kernel, groups * channels)
    x = activations(rng, (batch, height, width, groups * channels), special and planes > 0)
    values = rounded(x, planes)
    wanted, size = convolve(values, weight, stride, padding, dilation)

    def call() -> Array:
        y = np.full(wanted.shape, 7, np.float32)
        window, numbers = (*kernel, *stride, *padding, *dilation), (bits, out, planes, relu, at(y), threads)
        backend.native.integer_convolution(at(x), x.shape, window, groups, at(packed), at(scale), 0, *numbers)
        return y

    for isa, y in on_each_isa(call):
        agree(y, np.where(wanted < 0, 0, wanted) if relu else wanted, size + 1, isa)


def convolve(x: Array, weight: Array, stride: Any, padding: Any, dilation: Any) -> tuple[Array, Array]:
    """x (n, h, w, c), weight (out, kh, kw, c) -> y (n, oh, ow, out) and the same of the magnitudes."""
    # Zeros around, NaN too where the sample is: a row that holds NaN is NaN as a whole.
    bad = np.isnan(x).any((1, 2, 3))
    padded = np.pad(np.nan_to_num(x), ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[1:3], strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    views = views[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    y = np.einsum("nhwckl,oklc->nhwo", views, weight)
    y[bad] = np.nan
    return y, np.einsum("nhwckl,oklc->nhwo", np.abs(views), np.abs(weight))


def drawn_program(rng: np.random.Generator, x: Array, planes: int) -> tuple[list[int], Array, Array, Array, Array]:
    """A program of all kinds of steps on images x, its codes and factors, its result and the size of what that adds."""
    slots: dict[int, tuple[Array, Array]] = {0: (x.astype(np.float64), np.abs(x.astype(np.float64)))}
    text: list[Any] = [1, 5]
    codes: list[Array] = [np.zeros(0, np.uint8)]
    factors: list[Array] = [np.zeros(0, np.float32)]
    target = 0
    for _ in range(rng.integers(1, 7)):
        source = target if rng.integers(3) else int(rng.choice(list(slots)))
        kind = int(rng.integers(5))
        y, size = slots[source]
        height, width, channels = y.shape[1:]
        target = int(rng.choice([slot for slot in range(1, 5) if slot != source]))
        if kind == 0:
            bits, out, groups, relu = int(rng.choice([2, 4])), int(rng.integers(1, 40)), 1, int(rng.integers(2))
            kernel, padding = rng.integers(1, 1 + np.minimum(3, [height, width])), rng.integers(0, 2, 2)
            stride, columns = rng.integers(1, 3, 2), int(kernel.prod()) * (channels + -channels % 4)
            made = rng.integers(0, 256, (-(-out // 64), columns // 4, 32 * bits), np.uint8)
            factor = rng.random((2, out), np.float32) / np.float32(columns)
            weight = codes_of(made, bits, out, columns, 1) * factor[0][:, None].astype(np.float64)
            weight = weight.reshape(out, *kernel, channels + -channels % 4)[..., :channels]
            values = rounded(y.astype(np.float32), planes)
            y, terms = convolve(values, weight, stride, padding, (1, 1))
            # What comes in may differ by a rounding, and then by a step of its scale.
            size = convolve(
                size + np.abs(values).max((1, 2, 3), keepdims=True) * 1000, weight, stride, padding, (1, 1)
            )[1]
            y = y + factor[1]
            residual = [slot for slot, (held, _) in slots.items() if held.shape == y.shape and rng.integers(2)]
            other = residual[0] if residual else -1
            if other >= 0:
                y, size = y + slots[other][0], size + slots[other][1]
            y = np.maximum(y, 0) if relu else y
            size = size + terms + 1
            starts = sum(map(len, codes)), sum(map(len, factors))
            text += [0, source, other, target, bits, out, *kernel, *stride, *padding, 1, 1, groups, relu, *starts]
            codes.append(made.reshape(-1))
            factors.append(factor.reshape(-1))
        elif kind == 1:
            other, relu = int(rng.choice([slot for slot, (held, _) in slots.items() if held.shape == y.shape])), 1
            y, size = np.maximum(y + slots[other][0], 0), size + slots[other][1]
            text += [1, source, other, target, relu]
        elif kind == 2:
            y = np.maximum(y, 0)
            text += [2, source, target]
        elif kind == 3:
            kernel = np.minimum(2, [height, width])
            views = np.lib.stride_tricks.sliding_window_view(y, tuple(kernel), (1, 2))[:, ::2, ::2]
            y = views.max((4, 5))
            size = np.lib.stride_tricks.sliding_window_view(size, tuple(kernel), (1, 2))[:, ::2, ::2].max((4, 5))
            text += [3, source, target, *kernel, 2, 2, 0, 0, 0]
        else:
            pads = ((0, 0), (0, 0), (0, 0), (1, 2))
            y, size = np.pad(y[:, ::2], pads), np.pad(size[:, ::2], pads)
            text += [4, source, target, 2, 1, 1, 2]
        slots[target] = (y, size)
    return [int(number) for number in text], np.concatenate(codes), np.concatenate(factors), *slots[target]


def run_program(text: str, x: Array, codes: Array, factors: Array, planes: int, y: Array) -> None:
    inputs, batch = [(at(x), *x.shape[1:])], len(x)
    parts = (at(codes), len(codes), at(factors), len(factors), planes)
    backend.native.integer_network(text, inputs, batch, *parts, at(y), y[0].size, 2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2), seeds)
def test_networks(batch: int, height: int, width: int, channels: int, planes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, height, width, channels)).astype(np.float32)
    program, codes, factors, wanted, size = drawn_program(rng, x, planes)
    text = " ".join(map(str, program))
    codes, factors = (part if len(part) else np.zeros(1, part.dtype) for part in (codes, factors))

    def call() -> Array:
        y = np.full(wanted.shape, 7, np.float32)
        run_program(text, x, codes, factors, planes, y)
        return y

    for isa, y in on_each_isa(call):
        agree(y, wanted, size, (isa, text))


@settings(max_examples=300, deadline=None)
@given(st.data(), seeds)
def test_programs_that_make_no_sense(data: st.DataObject, seed: int) -> None:
    """With numbers changed, dropped or added a program is refused, or runs within its buffers."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 4, 5, 3)).astype(np.float32)
    planes = int(rng.integers(3))
    program, codes, factors, wanted, _ = drawn_program(rng, x, planes)
    numbers = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 7, 16, 64, 2**31 - 1, 2**31, 2**62, -(2**63), 2**70])
    for _ in range(data.draw(st.integers(1, 3))):
        place, number = data.draw(st.integers(0, len(program) - 1)), data.draw(numbers)
        program[place : place + data.draw(st.integers(0, 2))] = [number] * data.draw(st.integers(0, 1))
        program = program or [0]
    codes, factors = (part if len(part) else np.zeros(1, part.dtype) for part in (codes, factors))
    y = np.full(wanted.shape, 7, np.float32)
    text = data.draw(st.sampled_from([" ", "  ", "\0", ""])).join(map(str, program))
    for isa in (ISAS[0], ISAS[-1]):
        before = backend.native.isa()
        backend.native.use(isa)
        try:
            run_program(text, x, codes, factors, planes, y)
        except (ValueError, MemoryError):
            pass
        finally:
            backend.native.use(before)


BUFFER = np.zeros(8192, np.uint8)  # for calls that must be refused before they touch it
BUFFER[4096:] = 255
HERE = BUFFER.ctypes.data + -BUFFER.ctypes.data % 64
SIZES = (0, -1, -(2**63), 2**31, 2**62, 2**63 - 1, 2**64)
FLOATS = (0, HERE + 1, HERE + 2, -64, 2**64)
BIAS = FLOATS[1:]
BYTES = (0, -1, 2**64)
THREADS = (0, -1, 2**31)
COUNTS = (0, -1, 2**40, -(2**63), 2**64)
WIDTHS = (0, 2, 6, 9, -1, 2**31)
LINEAR = {
    "x": (HERE, FLOATS),
    "rows": (2, SIZES),
    "words": (HERE, FLOATS),
    "scale": (HERE, FLOATS),
    "scale_rows": (1, (*SIZES, 2, 4)),
    "groups": (2, (*SIZES, 6)),
    "bias": (0, BIAS),
    "out": (3, SIZES),
    "in": (5, SIZES),
    "y": (HERE + 2048, FLOATS),
    "threads": (1, THREADS),
}
DENSE = {
    "words": (HERE, FLOATS),
    "scale": (HERE, FLOATS),
    "scale_rows": (1, (*SIZES, 2, 4)),
    "groups": (2, (*SIZES, 6)),
    "weight": (HERE + 2048, FLOATS),
    "out": (3, SIZES),
    "in": (5, SIZES),
}
INTEGER_LINEAR = {
    "x": (HERE, FLOATS),
    "rows": (2, SIZES),
    "codes": (HERE, BYTES),
    "scale": (HERE, FLOATS),
    "bias": (0, BIAS),
    "zero": (0, (HERE + 5000, -1, 2**64)),  # the first: points of more bits than the codes
    "bits": (2, (0, 1, 3, 8, -1, 2**31, 2**40)),
    "groups": (2, (*SIZES, 6)),
    "out": (3, SIZES),
    "in": (5, SIZES),
    "planes": (1, (0, 3, -1, 2**31)),
    "relu": (False, (2, None, "yes")),
    "y": (HERE + 2048, FLOATS),
    "threads": (1, THREADS),
}
FLOAT_LINEAR = {name: value for name, value in INTEGER_LINEAR.items() if name != "planes"}
INTEGER_DENSE = {
    "codes": (HERE, BYTES),
    "scale": (HERE, FLOATS),
    "bits": (2, (0, 1, 3, 8, -1, 2**31, 2**40)),
    "groups": (2, (*SIZES, 6)),
    "out": (3, SIZES),
    "in": (5, SIZES),
    "weight": (HERE + 2048, FLOATS),
    "threads": (1, THREADS),
    "zero": (0, (HERE + 5000, -1, 2**64)),
}
WRONG_SHAPES = (
    *((size, 4, 4, 3) for size in SIZES),
    *((1, size, 4, 3) for size in SIZES),
    *((1, 4, size, 3) for size in SIZES),
    *((1, 4, 4, size) for size in SIZES),
    (1, 4, 4),
    (1, 4, 4, 3, 1),
    (2**20, 2**20, 2**20, 1),
    (2**30, 2**30, 4, 3),
    (1, 2, 4, 3),
    (),
    None,
)
WRONG_WINDOWS = (
    *((*[3] * place, size, *[1] * (7 - place)) for place in range(4) for size in SIZES),
    (3, 3, 1, 1, -1, 0, 1, 1),
    (3, 3, 1, 1, 2**31, 0, 1, 1),
    (3, 3, 1, 1, 2**30, 2**30, 1, 1),
    (3, 3, 1, 1, 0, 0, 0, 1),
    (3, 3, 1, 1, 0, 0, 2**31 - 1, 1),
    (2**30, 2**30, 1, 1, 2**30, 2**30, 1, 1),
    (5, 3, 1, 1, 0, 0, 1, 1),
    (3, 3, 1, 1, 0, 0, 1),
    (),
    None,
)
CONVOLUTION = {
    "x": (HERE, FLOATS),
    "shape": ((1, 4, 4, 3), WRONG_SHAPES),
    "window": ((3, 3, 1, 1, 0, 0, 1, 1), WRONG_WINDOWS),
    "groups": (1, (*SIZES, 2, 4)),
    "codes": (HERE, BYTES),
    "scale": (HERE, FLOATS),
    "bias": (0, BIAS),
    "bits": (2, (0, 1, 3, 8, -1, 2**31, 2**40)),
    "out": (3, SIZES),
    "planes": (1, (3, -1, 2**31)),
    "relu": (False, (2, None, "yes")),
    "y": (HERE + 2048, FLOATS),
    "threads": (1, THREADS),
}
NETWORK = {
    "program": ("1 2 2 0 1", ("", "1", "1 2", "0 2 2 0 1", "1 2 9 0 1", "1 2 2 1 1", "x", "1 2 2 0 1 2", None)),
    "inputs": ([(HERE, 1, 2, 3)], ([], [()], [(0, 1, 2, 3)], [(HERE + 1, 1, 2, 3)], [(HERE, 0, 2, 3)], None)),
    "batch": (2, SIZES),
    "codes": (HERE, BYTES),
    "code_bytes": (64, (-1, -(2**63), 2**64)),
    "factors": (HERE, FLOATS),
    "factor_count": (8, (-1, -(2**63), 2**64)),
    "planes": (1, (3, -1, 2**31)),
    "y": (HERE + 2048, FLOATS),
    "y_size": (6, (5, 7, 0, -1, 2**62)),
    "threads": (1, THREADS),
}
CODES = {"codes": (HERE, FLOATS), "words": (True, (2, None)), "out": (3, SIZES), "in": (5, SIZES)}
SPARSE_LINEAR = {
    "lists": (lambda: backend.native.make_lists(HERE, True, 3, 5, 1), (None, HERE, b"lists")),
    "x": (HERE, FLOATS),
    "rows": (2, SIZES),
    "scale": (HERE, FLOATS),
    "scale_rows": (1, (*SIZES, 2, 4)),
    "bias": (0, BIAS),
    "levels": (0.0, (-1.0, 32768.0, float("nan"), float("inf"), None)),
    "relu": (False, (2, None, "yes")),
    "y": (HERE + 2048, FLOATS),
    "threads": (1, THREADS),
}
CALLS: dict[str, dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "linear": LINEAR,
    "dense": DENSE,
    "integer_linear": INTEGER_LINEAR,
    "float_linear": FLOAT_LINEAR,
    "integer_dense": INTEGER_DENSE,
    "integer_convolution": CONVOLUTION,
    "integer_network": NETWORK,
    "count_nonzero": CODES,
    "make_lists": {**CODES, "together": (1, (0, 4, -1, 2**31))},
    "sparse_linear": SPARSE_LINEAR,
    "make_triples": {"words": (HERE, FLOATS), "out": (3, SIZES), "in": (5, SIZES)},
    "triples_linear": {
        "triples": (lambda: backend.native.make_triples(HERE, 3, 5), (None, HERE, b"triples")),
        "x": (HERE, FLOATS),
        "scale": (HERE, FLOATS),
        "scale_rows": (1, (*SIZES, 2, 4)),
        "bias": (0, BIAS),
        "y": (HERE + 2048, FLOATS),
        "threads": (1, THREADS),
    },
    "keep": {"codes": (HERE, BYTES), "n": (9, COUNTS), "bitmap": (HERE + 2048, BYTES)},
    "survey": {"bitmap": (HERE, BYTES), "n": (9, COUNTS), "enough": (99, (2**63, None))},
    "store": {
        "width": (3, WIDTHS),
        "codes": (HERE, BYTES),
        "bitmap": (0, (HERE, -1, 2**64)),  # the first keeps another number
        "kept": (9, (*COUNTS[1:], 8, 10)),
        "n": (9, (*COUNTS, 8, 10)),
        "levels": (3, (0, -1, 4, 128)),
        "out": (HERE + 2048, BYTES),
        "bytes": (4, (3, 5, -1, 2**62)),
    },
    "restore": {
        "width": (4, WIDTHS),
        "data": (HERE, BYTES),
        "bytes": (5, (4, 6, -1, 2**62)),
        "bitmap": (0, (-1, 2**64)),
        "kept": (9, (*COUNTS[1:], 8, 10)),
        "n": (9, (*COUNTS, 8, 10)),
        "levels": (7, (0, -1, 8, 128)),
        "codes": (HERE + 2048, BYTES),
    },
    "store_gaps": {
        "bitmap": (HERE + 5000, BYTES),
        "n": (16, (*COUNTS, 15, 2)),
        "r": (1, (0, 2, 32, -1)),
        "low": (HERE + 2048, BYTES),
        "low_bytes": (2, (0, 1, 3, -1, 2**62)),
        "unary": (HERE + 2100, BYTES),
        "unary_bytes": (2, (0, 1, 3, -1, 2**62)),
    },
    "restore_gaps": {
        "low": (HERE, BYTES),
        "unary": (HERE, BYTES),
        "unary_bytes": (2, (-1, 2**40, 2**62)),
        "kept": (3, (17, -1, 2**62)),
        "r": (1, (32, -1, 2**31)),
        "n": (16, COUNTS),
        "bitmap": (HERE + 2048, BYTES),
    },
    "read": {"x": (HERE, BYTES), "bytes": (256, (-1, -(2**63), 2**63))},
    "peak": {"of": ("codes", ("", "bits", None, 3)), "rounds": (1, (-1, -(2**63), 2**62, 2**64))},
    "use": {"name": (ISAS[-1] if ISAS else "", ("", "mmx", "avx512" * 9999, None, 3))},
}


def test_no_entry_point_is_left_out() -> None:
    """Each is called with wrong numbers here, or has a test file of its own that calls it."""
    own = {name for file in Path(__file__).parent.glob("test_*.py") for name in CALLED.findall(file.read_text())}
    functions = {name for name, value in vars(backend.native).items() if not isinstance(value, type)}
    assert {name for name in functions if not name.startswith("_")} <= {*CALLS, *own}


@pytest.mark.parametrize("name", CALLS)
def test_every_wrong_number_is_refused(name: str) -> None:
    """One wrong argument each, then several at once."""
    function, arguments = getattr(backend.native, name), CALLS[name]
    good = [value() if callable(value) else value for value, _ in arguments.values()]
    function(*good)
    for place, (argument, (_, wrong)) in enumerate(arguments.items()):
        for value in wrong:
            with pytest.raises((ValueError, TypeError)) as caught:
                function(*good[:place], value, *good[place + 1 :])
            told = str(caught.value)
            assert caught.type is TypeError or " = " in told or repr(value) in told, (argument, value)
    rng = np.random.default_rng(0)
    for _ in range(300):
        many = [
            wrong[rng.integers(len(wrong))] if rng.random() < 0.4 else value
            for value, (_, wrong) in zip(good, arguments.values(), strict=True)
        ]
        if many != good:
            with pytest.raises((ValueError, TypeError)):
                function(*many)
    assert not BUFFER[:64].any()


def test_callers_at_once_get_the_answers_of_one() -> None:
    """Each of four Python threads has entry points and sizes of its own, and native threads besides."""

    def work(seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        rows, out, columns = 3 + 40 * (seed % 2), 200 + seed, 1000 + seed
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        words = rng.integers(0, 2**32, (-(-out // 16), -(-columns // 16), 16), np.uint32)
        packed = rng.integers(0, 256, (-(-out // 64), steps(columns, 3), 128), np.uint8)
        scale, y = rng.random((3, out), np.float32), np.zeros((4, rows, out), np.float32)
        backend.native.linear(at(x), rows, at(words), at(scale), 1, 3, 0, out, columns, at(y[0]), 2)
        for planes in (1, 2):
            numbers = (4, 3, out, columns, planes, False, at(y[planes]), 2)
            backend.native.integer_linear(at(x), rows, at(packed), at(scale), 0, 0, *numbers)
        return y.tobytes()

    alone = [work(seed) for seed in range(4)]
    together: list[set[bytes]] = [set() for _ in alone]

    def caller(seed: int) -> None:
        for _ in range(10):
            together[seed].add(work(seed))

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(len(alone))]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert together == [{answer} for answer in alone]


def at_the_end(array: Array) -> tuple[Array, mmap.mmap]:
    """A copy whose last byte is the last before a page that nobody may read."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, np.uint8, array.nbytes, size - array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, memory


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [1, 62, 64, 70, 192, 256])
@pytest.mark.parametrize("bits", [2, 4])
def test_no_byte_beyond_an_array_is_read(bits: int, columns: int, isa: str) -> None:
    """Sanitizers do not see what a matrix unit loads."""
    rng, before = np.random.default_rng(columns), backend.native.isa()
    backend.native.use(isa)
    for rows, out, groups in itertools.product([1, 2, 3, 17], [1, 64, 70], {1, -(-columns // 64)}):
        packed = rng.integers(0, 256, (-(-out // 64), steps(columns, groups), 32 * bits), np.uint8)
        scale, zero = np.ones((groups, out), np.float32), rng.integers(0, 2**bits, (groups, out), np.uint8)
        x, bias, y = (rng.random(shape, np.float32) for shape in [(rows, columns), (out,), (rows, out)])
        made = [at_the_end(array) for array in (x, packed, scale, bias, zero, y)]
        first, *layer, last = (at(array) for array, _ in made)
        numbers = (first, rows, *layer, bits, groups, out, columns)
        backend.native.float_linear(*numbers, False, last, 1)
        exact = made[-1][0].copy()
        backend.native.integer_linear(*numbers, 2, False, last, 1)
        assert np.abs(exact - made[-1][0]).max() <= 1e-4 * 15 * columns  # 1e-4 of the sum of all magnitudes
        backend.native.integer_linear(*numbers, 1, False, last, 1)
    backend.native.use(before)


SHORT = """
import sys
import numpy as np
from robustq.kernels.backend import native
x, packed, scale, y = (np.zeros(n, t) for n, t in [(40, "f4"), (10 * 64 - 1, "u1"), (20, "f4"), (20, "f4")])
native.use(sys.argv[1])
numbers = (2, 1, 20, 40, 1, False, y.ctypes.data, 1)
native.integer_linear(x.ctypes.data, 1, packed.ctypes.data, scale.ctypes.data, 0, 0, *numbers)
"""


@pytest.mark.skipif("asan" not in os.environ.get("LD_PRELOAD", ""), reason="not under AddressSanitizer")
@pytest.mark.parametrize("isa", ISAS)
def test_the_sanitizer_sees_a_byte_too_far(isa: str) -> None:
    done = subprocess.run([sys.executable, "-c", SHORT, isa], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer" in done.stderr
