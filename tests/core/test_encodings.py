import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustq.core.encodings import pack_bits, pack_codes, pack_mask, unpack_bits, unpack_codes, unpack_mask
from robustq.core.errors import InputFileError, WeightError
from robustq.kernels import backend

ALPHABETS = st.sampled_from([(1, True), (1, False), (2, False), (3, False), (7, False), (8, False), (127, False)])


@st.composite
def code_tensors(draw):
    levels, binary = draw(ALPHABETS)
    values = st.sampled_from([-1, 1]) if binary else st.one_of(st.just(0), st.integers(-levels, levels))
    return torch.tensor(draw(st.lists(values, max_size=70)), dtype=torch.int8), levels, binary


def unpack(encoding, data, n, levels, binary=False):
    header = {"encoding": encoding, "levels": levels, "binary": binary}
    return unpack_codes(header, {"codes": torch.tensor(data, dtype=torch.uint8)}, n)


@given(code_tensors())
def test_round_trip(case):
    codes, levels, binary = case
    header, payload = pack_codes(codes, levels, binary)
    assert set(payload) == {"codes"}
    assert payload["codes"].dtype == torch.uint8
    again = unpack_codes({**header, "levels": levels, "binary": binary}, payload, len(codes))
    assert again.dtype == torch.int8
    assert torch.equal(again, codes)


@given(code_tensors())
def test_never_larger_than_the_dense_encoding(case):
    codes, levels, binary = case
    n = len(codes)
    dense = n / 8 if binary else n / 5 if levels == 1 else n * (3 if levels <= 3 else 4 if levels <= 7 else 8) / 8
    assert pack_codes(codes, levels, binary)[1]["codes"].numel() <= math.ceil(dense)


@given(st.lists(st.booleans(), max_size=40))
def test_bits_round_trip(bits):
    mask = torch.tensor(bits, dtype=torch.bool)
    assert torch.equal(unpack_bits(pack_bits(mask), len(bits)), mask)


@pytest.mark.parametrize(
    ("codes", "levels", "binary", "encoding", "expected"),
    [
        # bits: codes 0, 3 and 8 are +1
        ([1, -1, -1, 1, -1, -1, -1, -1, 1], 1, True, "bits", [0b1001, 0b1]),
        # 2 + 1*3 + 0*9 + 1*27 + 2*81 = 194, then 2
        ([1, 0, -1, 0, 1, 1], 1, False, "base3", [194, 2]),
        ([1, 1, 1, 1, 1], 1, False, "base3", [242]),
        # bitmap 0b10000001 0b00000001, then the signs + - +
        ([1, 0, 0, 0, 0, 0, 0, -1, 1, 0, 0, 0, 0, 0, 0, 0], 1, False, "bitmap", [0b10000001, 0b1, 0b101]),
        # shifted by 3: 6, 0, 4 in three bits each, the first lowest: 0b100_000_110 = 0x106
        ([3, -3, 1], 3, False, "u3", [0x06, 0x01]),
        # shifted by 7: 14, 0, 8
        ([7, -7, 1], 7, False, "u4", [0x0E, 0x08]),
        ([127, -127, 0], 127, False, "u8", [254, 0, 127]),
        # one code of sixteen is kept: bitmap 0x8000, then 5 + 7 = 12 in a nibble
        ([0] * 15 + [5], 7, False, "bitmap", [0x00, 0x80, 0x0C]),
        ([], 1, False, "base3", []),
    ],
)
def test_golden_bytes(codes, levels, binary, encoding, expected):
    tensor = torch.tensor(codes, dtype=torch.int8)
    header, payload = pack_codes(tensor, levels, binary)
    assert header == {"encoding": encoding}
    assert payload["codes"].tolist() == expected
    assert unpack(encoding, expected, len(codes), levels, binary).tolist() == codes


def test_bitmap_is_taken_only_where_it_is_smaller():
    few = torch.tensor([1, -1, 1, 1, -1, 0, 0, 0] * 10, dtype=torch.int8)  # 3/8 zeros: 10 + 50/8 = 17 > 80/5 = 16
    many = torch.tensor([1, -1, 1, 1, 0, 0, 0, 0] * 10, dtype=torch.int8)  # 10 + 40/8 = 15 < 16
    assert pack_codes(few, 1, False)[0] == {"encoding": "base3"}
    assert pack_codes(many, 1, False)[0] == {"encoding": "bitmap"}


def test_bits_are_little_endian():
    assert pack_bits(torch.tensor([True] + [False] * 8 + [True])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("encoding", "data", "n", "levels", "binary", "message"),
    [
        ("base3", [243], 5, 1, False, "243"),
        ("base3", [0, 0], 5, 1, False, "take 1 bytes, but 2 are stored"),
        ("base3", [194, 1 + 3], 6, 1, False, "not 0"),
        ("bits", [0b10], 1, 1, True, "not 0"),
        ("bits", [1, 1], 8, 1, True, "take 1 bytes, but 2"),
        ("u3", [7], 1, 3, False, "is 7, but 3 levels go up to 6"),
        ("u4", [0xF0], 2, 7, False, "is 15, but 7 levels go up to 14"),
        ("u4", [0x10], 1, 7, False, "not 0"),
        ("u8", [255], 1, 127, False, "is 255, but 127 levels"),
        ("bitmap", [], 8, 1, False, "takes 1 bytes, but 0"),
        ("bitmap", [0b11], 8, 1, False, "take 1 bytes, but 0"),
        ("bitmap", [1, 7], 8, 7, False, "1 codes that the bitmap keeps are 0"),
        ("u4", [0], 1, 1, False, "base3, bitmap"),
        ("raw", [0], 1, 1, False, "'raw'"),
        ("bits", [0], 1, 7, True, "binary"),
        ("u8", [0], 1, 128, False, "128"),
        ("u8", [0], 1, True, False, "True"),
        ("base3", [0], 10**15, 1, False, "take 200000000000000 bytes"),
    ],
)
def test_inconsistent_bytes_are_refused(encoding, data, n, levels, binary, message):
    with pytest.raises(InputFileError, match=message):
        unpack(encoding, data, n, levels, binary)


@pytest.mark.parametrize("codes", [None, torch.zeros(2, dtype=torch.int8), torch.zeros(1, 2, dtype=torch.uint8)])
def test_codes_of_another_type_are_refused(codes):
    payload = {} if codes is None else {"codes": codes}
    with pytest.raises(InputFileError, match="row of bytes"):
        unpack_codes({"encoding": "base3", "levels": 1, "binary": False}, payload, 10)


@pytest.mark.parametrize(
    "data", [torch.zeros(2, dtype=torch.uint8), torch.zeros(1), torch.tensor([4], dtype=torch.uint8)]
)
def test_inconsistent_bitmaps_are_refused(data):
    with pytest.raises(InputFileError, match="bitmap"):
        unpack_bits(data, 2)


@pytest.mark.parametrize(
    ("codes", "levels", "binary", "message"),
    [
        ([0, 1], 1, True, "1 binary codes are 0"),
        ([2], 1, False, r"outside \[-1, 1\]"),
        ([1], 128, False, "128"),
        ([1], 0, False, "0 levels"),
        ([1], 2, True, "binary"),
    ],
)
def test_codes_outside_the_alphabet_are_refused(codes, levels, binary, message):
    with pytest.raises(WeightError, match=message):
        pack_codes(torch.tensor(codes, dtype=torch.int8), levels, binary)


def without_native(call):
    """What `call` gives in numpy."""
    native, backend.native = backend.native, None
    try:
        return call()
    finally:
        backend.native = native


def told(call):
    """The codes, or what is wrong with them."""
    try:
        return call().tolist()
    except InputFileError as error:
        return str(error)


@given(ALPHABETS, st.integers(0, 12000), st.floats(0, 1), st.integers(0, 2**31))
def test_native_code_writes_and_reads_the_same_bytes(alphabet, n, zeros, seed):
    levels, binary = alphabet
    rng = torch.Generator().manual_seed(seed)
    signs = 2 * torch.randint(0, 2, (n,), generator=rng) - 1
    codes = signs * torch.randint(1, levels + 1, (n,), generator=rng)
    codes = (codes if binary else codes * (torch.rand(n, generator=rng) >= zeros)).to(torch.int8)
    header, payload = pack_codes(codes, levels, binary)
    plain_header, plain = without_native(lambda: pack_codes(codes, levels, binary))
    assert header == plain_header
    assert torch.equal(payload["codes"], plain["codes"])
    header |= {"levels": levels, "binary": binary}
    assert torch.equal(unpack_codes(header, payload, n), codes)
    assert torch.equal(without_native(lambda: unpack_codes(header, payload, n)), codes)
    encoding, data = pack_mask(codes != 0)
    plain_encoding, plain_data = without_native(lambda: pack_mask(codes != 0))
    assert encoding == plain_encoding
    assert torch.equal(data, plain_data)
    assert torch.equal(unpack_mask(encoding, data, n), codes != 0)


@given(
    ALPHABETS, st.sampled_from(["base3", "u3", "u4", "u8", "bits", "bitmap", "rice"]), st.binary(max_size=30), st.data()
)
def test_native_code_refuses_the_same_bytes(alphabet, encoding, raw, data):
    levels, binary = alphabet
    n = data.draw(st.integers(0, 60))

    def call():
        return unpack(encoding, list(raw), n, levels, binary)

    assert told(call) == told(lambda: without_native(call))
