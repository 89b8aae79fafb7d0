"""The native kernels that run from lists of what is not zero, on any codes, sizes and activations, against numpy.

Like test_native.py without torch and conftest.py, for the module that AddressSanitizer and UBSan watch: arrays have
exactly the size that the layout needs.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustq.kernels import backend

Array = NDArray[Any]
ISAS = list(backend.native.available()) if backend.native else []
pytestmark = pytest.mark.skipif(not ISAS, reason="the native module is not built")
seeds = st.integers(0, 2**32 - 1)
CORRUPT = {"words": 2, "bytes": 3}  # the field that stands for nothing


def at(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data


def filled(fields: Array, rows: int, columns: int, rng: np.random.Generator) -> Array:
    """Fields in whole blocks; what fills them up is anything: it is never read."""
    out, width = fields.shape
    padded = rng.integers(0, 4, (out + -out % rows, width + -width % columns))
    padded[:out, :width] = fields
    return padded


def as_words(codes: Array, rng: np.random.Generator, corrupt: Array | None = None) -> Array:
    """codes (out, in) -> words uint32 (ceil(out / 16), ceil(in / 16), 16); where `corrupt`, the pattern 10."""
    fields = codes & 3 if corrupt is None else np.where(corrupt, CORRUPT["words"], codes & 3)
    padded = filled(fields, 16, 16, rng)
    blocks = padded.reshape(len(padded) // 16, 16, -1, 16).transpose(0, 2, 1, 3)
    return np.ascontiguousarray((blocks << 2 * np.arange(16)).sum(-1), np.uint32)


def as_bytes(codes: Array, rng: np.random.Generator, corrupt: Array | None = None) -> Array:
    """codes (out, in) -> bytes uint8 (ceil(out / 64), ceil(in / 4), 64); where `corrupt`, the field 3."""
    fields = codes + 1 if corrupt is None else np.where(corrupt, CORRUPT["bytes"], codes + 1)
    padded = filled(fields, 64, 4, rng)
    parts = padded.reshape(len(padded) // 64, 4, 16, -1, 4).transpose(0, 3, 2, 4, 1)
    return np.ascontiguousarray((parts << 2 * np.arange(4)).sum(-1).reshape(*parts.shape[:2], 64), np.uint8)


LAYOUTS = {"words": as_words, "bytes": as_bytes}
layouts = st.sampled_from(list(LAYOUTS))


def drawn_codes(rng: np.random.Generator, out: int, columns: int, zeros: float) -> Array:
    return rng.choice([-1, 1], (out, columns)) * (rng.random((out, columns)) >= zeros)


def rounded(x: Array, levels: float) -> Array:
    """x (rows, in) as the kernel sees it, in float64."""
    if not levels:
        return x.astype(np.float64)
    most = np.abs(x).max(1, keepdims=True)
    safe = np.where(most < np.float32(1e-30), np.float32(1), most)
    values = np.rint(x * (np.float32(levels) / safe)).astype(np.float64) * (safe.astype(np.float64) / levels)
    return np.where(most < np.float32(1e-30), 0, values)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 700), layouts, st.data())
def test_layers_from_lists(rows: int, out: int, columns: int, layout: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(seeds))
    codes = drawn_codes(rng, out, columns, data.draw(st.sampled_from([0, 0.5, 0.7, 0.95, 1])))
    together, threads = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    levels, relu = data.draw(st.sampled_from([0, 127, 32512])), data.draw(st.booleans())
    scale = rng.random(data.draw(st.sampled_from([1, out])), np.float32)
    bias = rng.random(out, np.float32) if data.draw(st.booleans()) else None
    packed = LAYOUTS[layout](codes, rng)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    x *= data.draw(st.sampled_from([1, 0, 1e-33, 1e25]))
    special = data.draw(st.sampled_from([None, None, np.nan, np.inf, -np.inf]))
    if special is not None:
        x[rng.integers(rows), rng.integers(columns)] = special

    assert backend.native.count_nonzero(at(packed), layout == "words", out, columns) == np.count_nonzero(codes)
    lists = backend.native.make_lists(at(packed), layout == "words", out, columns, together)
    assert (lists.out_features, lists.in_features, lists.nonzero) == (out, columns, np.count_nonzero(codes))
    before = backend.native.isa()
    try:
        for isa in ISAS:
            backend.native.use(isa)
            y = np.full((rows, out), 7, np.float32)
            numbers = (at(scale), len(scale), at(bias), levels, relu, at(y), threads)
            done = backend.native.sparse_linear(lists, at(x), rows, *numbers)
            assert done == (special is None), isa
            if not done:
                assert (y == 7).all(), isa
                continue
            values, weight = rounded(x, levels), codes * scale.astype(np.float64)[:, None]
            wanted = values @ weight.T + (0 if bias is None else bias)
            wanted = np.maximum(wanted, 0) if relu else wanted
            assert np.all(np.abs(y - wanted) <= 1e-5 * (np.abs(values) @ np.abs(weight).T + 1)), isa
    finally:
        backend.native.use(before)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.integers(1, 300), st.integers(1, 3), layouts, seeds)
def test_codes_that_stand_for_nothing(out: int, columns: int, together: int, layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes, corrupt = drawn_codes(rng, out, columns, 0.5), np.zeros((out, columns), bool)
    corrupt[rng.integers(out), rng.integers(columns)] = True
    packed = LAYOUTS[layout](codes, rng, corrupt)
    assert backend.native.count_nonzero(at(packed), layout == "words", out, columns) == -1
    with pytest.raises(ValueError, match="bit pattern"):
        backend.native.make_lists(at(packed), layout == "words", out, columns, together)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 130), st.integers(1, 300), layouts, seeds)
def test_any_bytes_are_lists_or_refused(out: int, columns: int, layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    packed = LAYOUTS[layout](np.zeros((out, columns), np.int64), rng)
    packed[...] = rng.integers(0, 1 << 8 * packed.itemsize, packed.shape, packed.dtype)
    count = backend.native.count_nonzero(at(packed), layout == "words", out, columns)
    try:
        lists = backend.native.make_lists(at(packed), layout == "words", out, columns, 1 + seed % 3)
    except ValueError:
        assert count == -1
    else:
        assert lists.nonzero == count >= 0
