"""The native encodings on any codes and any bytes; tests/core/test_encodings.py compares them with numpy.

Needs no torch, like test_native.py, and is called under the sanitizers too.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from robustq.kernels import backend, storage

ISAS = [isa for isa in ("scalar", "avx2") if backend.native and isa in backend.native.available()]
LEVELS = {"bits": 1, "base3": 1, "u3": 3, "u4": 7, "u8": 127}
pytestmark = pytest.mark.skipif(not ISAS, reason="the native module is not built")
sizes = st.one_of(st.integers(1, 90), st.integers(5100, 5200), st.integers(1, 21000))
encodings = st.sampled_from(sorted(LEVELS))
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    before = backend.native.isa()
    backend.native.use(request.param)
    yield
    backend.native.use(before)


def codes_of(rng: np.random.Generator, n: int, levels: int, zeros: float) -> NDArray[np.int8]:
    codes = rng.integers(1, levels + 1, n, np.int8) * rng.choice(np.array([-1, 1], np.int8), n)
    codes[rng.random(n) < zeros] = 0
    return codes


def size(encoding: str, n: int) -> int:
    return -(-n // 5) if encoding == "base3" else -(-n * storage.WIDTHS[encoding] // 8)


def some(found: Any) -> Any:
    assert found is not None
    return found


@settings(max_examples=80, deadline=None)
@given(sizes, encodings, st.floats(0, 1), seeds)
def test_codes_come_back(n: int, encoding: str, zeros: float, seed: int) -> None:
    rng, levels = np.random.default_rng(seed), LEVELS[encoding]
    codes = codes_of(rng, n, levels, zeros if encoding != "bits" else 0)
    data = some(storage.encode(encoding, codes, levels, size(encoding, n)))
    assert np.array_equal(some(storage.decode(encoding, data, n, levels)), codes)
    if encoding == "base3":
        return
    codes = codes_of(rng, n, levels, zeros)
    bitmap, kept, r, unary = some(storage.survey(codes, 2**40))
    assert np.array_equal(np.unpackbits(bitmap, count=n, bitorder="little"), codes != 0)
    assert kept == storage.count(bitmap) == np.count_nonzero(codes)
    data = some(storage.encode(encoding, codes, levels, size(encoding, kept), (bitmap, kept)))
    if kept:
        assert np.array_equal(data, some(storage.encode(encoding, codes[codes != 0], levels, len(data))))
    assert np.array_equal(some(storage.decode(encoding, data, n, levels, (bitmap, kept))), codes)
    low, ends = some(storage.encode_gaps(bitmap, n, r, -(-kept * r // 8), -(-unary // 8)))
    assert np.array_equal(some(storage.decode_gaps(low, ends, kept, r, n)), bitmap)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.integers(1, 40), st.integers(5100, 5200)), encodings, st.booleans(), seeds)
def test_bytes_are_taken_only_as_they_are_written(n: int, encoding: str, masked: bool, seed: int) -> None:
    """Whatever is decoded would be encoded to the very same bytes; everything else is None."""
    rng, levels = np.random.default_rng(seed), LEVELS[encoding]
    kept: tuple[Any, int] | None = None
    count = n
    if masked:
        bitmap = rng.integers(0, 256, -(-n // 8), np.uint8)
        count = min(n, storage.count(bitmap) + int(rng.integers(-1, 2)) * int(rng.integers(2)))
        kept = (bitmap, max(0, count))
    data = rng.integers(0, 256, size(encoding, max(0, count)), np.uint8)
    if rng.integers(2):  # mostly good ones
        data = some(
            storage.encode(encoding, codes_of(rng, max(1, count), levels, 0), levels, size(encoding, max(1, count)))
        )
        data = data[: size(encoding, max(0, count))]
        if len(data) and rng.integers(2):
            data[-1] ^= 1 << rng.integers(8)
    codes = storage.decode(encoding, data, n, levels, kept)
    if codes is None:
        return
    assert abs(codes.astype(np.int16)).max() <= levels
    if kept is not None:
        assert np.array_equal(np.packbits(codes != 0, bitorder="little"), kept[0])
    assert np.array_equal(some(storage.encode(encoding, codes, levels, len(data), kept)), data)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(0, 60), st.integers(0, 31), st.integers(0, 80), seeds)
def test_gaps_are_taken_only_as_they_are_written(n: int, kept: int, r: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept, r = min(kept, n), int(rng.choice([0, 1, 2, r]))
    low = rng.integers(0, 256, -(-kept * r // 8), np.uint8)
    if kept * r % 8 and rng.integers(4):
        low[-1] &= (1 << kept * r % 8) - 1
    unary = np.zeros(kept + more, np.uint8)
    unary[rng.permutation(len(unary))[: kept + int(rng.integers(10) == 0)]] = 1
    ends = np.packbits(unary[: np.flatnonzero(unary)[-1] + 1 if unary.any() else 0], bitorder="little")
    bitmap = storage.decode_gaps(low, ends, kept, r, n)
    if bitmap is None:
        return
    assert storage.count(bitmap) == kept
    again = some(storage.encode_gaps(bitmap, n, r, len(low), len(ends)))
    assert np.array_equal(again[0], low)
    assert np.array_equal(again[1], ends)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: storage.encode("u3", np.zeros(9, np.int8), 3, 3), "another number of bytes; bytes = 3"),
        (lambda: storage.encode("u3", np.zeros(9, np.int8), 4, 4), "no such levels; levels = 4"),
        (lambda: storage.encode("bits", np.ones(9, np.int8), 1, 1, (np.full(2, 255, np.uint8), 8)), "kept = 16"),
        (lambda: storage.encode("bits", np.ones(9, np.int8), 1, 2, (np.full(2, 255, np.uint8), 16)), "kept = 16"),
        (lambda: storage.decode("u8", np.zeros(3, np.uint8), 4, 8), "bytes = 3"),
        (lambda: storage.decode("u8", np.zeros(3, np.uint8), 2, 8, (np.zeros(1, np.uint8), 3)), "kept = 3"),
        (lambda: storage.encode_gaps(np.full(1, 1, np.uint8), 8, 2, 0, 1), "low bits take .* = 0"),
        (lambda: storage.encode_gaps(np.full(1, 129, np.uint8), 8, 0, 0, 2), "unary part takes .* = 2"),
        (lambda: storage.encode_gaps(np.full(2, 128, np.uint8), 16, 0, 0, 1), "unary part takes .* = 1"),
        (lambda: storage.encode_gaps(np.full(1, 128, np.uint8), 7, 0, 0, 1), "beyond the last; place = 7"),
        (lambda: storage.decode_gaps(np.zeros(0, np.uint8), np.ones(1, np.uint8), 9, 0, 8), "kept = 9"),
        (lambda: storage.decode_gaps(np.zeros(0, np.uint8), np.ones(1, np.uint8), 1, 32, 8), "r = 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
