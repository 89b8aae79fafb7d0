import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustq.core import rice
from robustq.core.encodings import pack_codes, unpack_codes
from robustq.core.errors import InputFileError


def mask_of(n, places):
    mask = np.zeros(n, np.bool_)
    mask[list(places)] = True
    return mask


def survey(mask):
    return rice.survey(mask, 2**40)


def encode(mask):
    return rice.write(survey(mask))


def entropy(p):
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


MASKS = st.integers(0, 300).flatmap(
    lambda n: st.builds(mask_of, st.just(n), st.sets(st.integers(0, n - 1)) if n else st.just(set()))
)


@given(MASKS)
def test_round_trip(mask):
    data = encode(mask)
    assert data.dtype == np.uint8
    assert len(data) == survey(mask).size
    assert rice.count(data) == mask.sum()
    assert np.array_equal(rice.decode(data, len(mask)), mask)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_no_other_parameter_is_smaller(gaps):
    mask = mask_of(sum(gaps) + len(gaps), np.cumsum(np.array(gaps) + 1) - 1)
    bits = [sum((gap >> r) + 1 + r for gap in gaps) for r in range(20)]
    assert bits[int(encode(mask)[0])] == min(bits)


@pytest.mark.parametrize(
    ("n", "places", "expected"),
    [
        (16, [], [0, 0, 0, 0, 0]),
        # gaps 0 and 1 with r = 0: 1, then 01
        (16, [0, 2], [0, 2, 0, 0, 0, 0b101]),
        # gaps 5, 7, 6 with r = 2: low bits 01 11 10, high 1 1 1 in unary 01 01 01
        (30, [5, 13, 20], [2, 3, 0, 0, 0, 0b10_11_01, 0b10_10_10]),
    ],
)
def test_golden_bytes(n, places, expected):
    assert encode(mask_of(n, places)).tolist() == expected
    assert np.flatnonzero(rice.decode(np.array(expected, np.uint8), n)).tolist() == places


@pytest.mark.parametrize(
    ("data", "n", "message"),
    [
        ([0, 0, 0, 0], 8, "at least 5 bytes, but 4"),
        ([0, 2, 0, 0, 0], 8, "2 gaps are declared, but 0"),
        ([0, 1, 0, 0, 0, 0b101], 8, "1 gaps are declared, but 2"),
        ([0, 9, 0, 0, 0, 255], 8, "9 gaps of parameter 0 are stored for 8"),
        ([32, 1, 0, 0, 0, 1], 8, "parameter 32"),
        ([0, 0, 0, 0, 0], 2**40, "stored for 1099511627776"),
        ([8, 4, 0, 0, 0, 1], 8, "take more than 8 bytes, but 6"),
        ([0, 1, 0, 0, 0, 1, 0], 8, "too many"),
        ([1, 1, 0, 0, 0, 0b10, 1], 8, "unused places"),
        ([0, 1, 0, 0, 0, 0, 2], 8, "reach past the 8"),
        ([31, 1, 0, 0, 0, 0, 0, 0, 0, 128], 8, "reach past the 8"),
        ([3, 1, 0, 0, 0, 7, 2], 10, "to weight 15, but there are 10"),
    ],
)
def test_inconsistent_bytes_are_refused(data, n, message):
    with pytest.raises(InputFileError, match=message):
        rice.decode(np.array(data, np.uint8), n)


@given(st.binary(max_size=40), st.integers(0, 200))
def test_any_bytes_give_a_mask_or_a_named_error(data, n):
    try:
        mask = rice.decode(np.frombuffer(data, np.uint8), n)
    except InputFileError:
        return
    assert mask.shape == (n,)


def codes_of(n, zeros, levels=1):
    generator = np.random.default_rng(0)
    values = generator.integers(1, levels + 1, n) * generator.choice([-1, 1], n)
    return torch.from_numpy(np.where(generator.random(n) < zeros, 0, values).astype(np.int8))


@pytest.mark.parametrize("zeros", [0.8, 0.9, 0.95, 0.99])
def test_sparse_codes_are_near_their_entropy(zeros):
    codes = codes_of(100_000, zeros)
    header, payload = pack_codes(codes, 1, False)
    assert header == {"encoding": "rice"}
    share = float((codes != 0).float().mean())
    assert payload["codes"].numel() * 8 / len(codes) < 1.03 * (entropy(share) + share)


def test_the_choice_is_the_smallest():
    chosen = {zeros: pack_codes(codes_of(10_000, zeros), 1, False)[0]["encoding"] for zeros in (0.2, 0.5, 0.9)}
    assert chosen == {0.2: "base3", 0.5: "bitmap", 0.9: "rice"}
    header, payload = pack_codes(codes_of(10_000, 0.9, 7), 7, False)
    assert header == {"encoding": "rice"}
    assert torch.equal(unpack_codes({**header, "levels": 7}, payload, 10_000), codes_of(10_000, 0.9, 7))


@pytest.mark.parametrize(
    ("data", "levels", "message"),
    [
        ([0, 2, 0, 0, 0, 0b11], 1, "2 gaps are declared, but 0"),  # the last byte is that of the signs
        ([0, 200, 0, 0, 0], 1, "at least 5 bytes"),
        ([0, 1, 0, 0, 0, 1, 7], 7, "1 codes that the rice keeps are 0"),
        ([0, 1, 0, 0, 0, 1, 2], 1, "unused places of the last bits"),
    ],
)
def test_codes_that_do_not_fit_their_gaps_are_refused(data, levels, message):
    with pytest.raises(InputFileError, match=message):
        unpack_codes({"encoding": "rice", "levels": levels}, {"codes": torch.tensor(data, dtype=torch.uint8)}, 8)
