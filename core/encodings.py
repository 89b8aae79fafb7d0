"""Integer codes to bytes and back, without loss. docs/format.md describes every encoding for other readers.

| encoding | alphabet          | bytes                                                                         |
|----------|-------------------|-------------------------------------------------------------------------------|
| bits     | {-1, +1}          | 1 bit a code, set for +1                                                      |
| base3    | {-1, 0, 1}        | 5 codes a byte: sum of (code + 1) * 3^i                                       |
| u3 u4 u8 | up to 3, 7, 127   | code + levels in 3, 4 or 8 bits                                               |
| bitmap   | any that has a 0  | 1 bit a code, set where it is not 0; then the kept codes as bits, u3, u4 or u8 |
| rice     | any that has a 0  | the gaps between codes that are not 0 (`rice.py`); then the kept codes likewise |

Bits are little-endian throughout: code i of a w-bit encoding starts at bit i * w, and bit 0 is the lowest of byte 0.
Unused bits and base-3 places of the last byte are 0.

Native code (`robustq.kernels.storage`) does the same 2 to 100 times as fast. Where it is absent, and where it finds
bytes that no writer would have written, what is here in numpy does the work or words the error.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustq.kernels import storage

from . import rice
from .errors import InputFileError, WeightError

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]

WIDTHS = {"u3": 3, "u4": 4, "u8": 8}
MAX_LEVELS = 127
MAX_EXPANSION = 256  # weights a stored byte may stand for in a tensor of more than MAX_SMALL weights
MAX_SMALL = 2**26
_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)
_DIGITS = ((np.arange(243)[:, None] // _POWERS) % 3).astype(np.int8) - 1  # byte -> five codes


def pack_codes(codes: Tensor, levels: int, binary: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """int8 codes of any shape in [-levels, levels] -> header {"encoding"}, payload {"codes": uint8 (bytes,)}.

    The smallest encoding that fits is taken. Raises WeightError for codes outside the alphabet.
    """
    flat = codes.detach().to(torch.int8).flatten().cpu().numpy()
    _check_alphabet(flat, levels, binary)
    encoding, data = _smallest(flat, levels, binary)
    return {"encoding": encoding}, {"codes": torch.from_numpy(data)}


def unpack_codes(header: Mapping[str, Any], payload: Mapping[str, Tensor], n: int) -> Tensor:
    """header {"encoding", "levels", "binary"}, payload {"codes"} -> (n,) int8; InputFileError if they do not fit."""
    levels, binary, encoding = header.get("levels"), header.get("binary", False), header.get("encoding")
    if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= MAX_LEVELS:
        raise InputFileError(f"levels is {levels!r}, not a whole number from 1 to {MAX_LEVELS}.")
    if not isinstance(binary, bool) or (binary and levels != 1):
        raise InputFileError(f"binary is {binary!r} with levels {levels}; binary codes have one level.")
    if encoding not in _fitting(levels, binary):
        fitting = ", ".join(_fitting(levels, binary))
        raise InputFileError(f"the encoding {encoding!r} is not one for {levels} levels (those are {fitting}).")
    data = payload.get("codes")
    if data is None or data.dtype != torch.uint8 or data.dim() != 1:
        found = "missing" if data is None else f"{data.dtype} with shape {tuple(data.shape)}"
        raise InputFileError(f"the codes are {found}, not a row of bytes.")
    if encoding in ("bitmap", "rice"):
        return torch.from_numpy(_from_kept(encoding, data.numpy(), n, levels))
    return torch.from_numpy(_decode(encoding, data.numpy(), n, levels))


def pack_bits(mask: Tensor) -> Tensor:
    """bool of any shape -> uint8 (ceil(n / 8),), the first entry in the lowest bit."""
    return torch.from_numpy(np.packbits(mask.detach().flatten().cpu().numpy(), bitorder="little"))


def pack_mask(mask: Tensor) -> tuple[str, Tensor]:
    """bool of any shape -> ("bitmap" or "rice", whichever is smaller, its uint8 (bytes,))."""
    flat = mask.detach().flatten().cpu().numpy()
    places = rice.survey(flat, _size("bits", len(flat)))
    encoding = _smaller_map(places)[0]
    return encoding, torch.from_numpy(_encode_map(encoding, places))


def unpack_mask(encoding: object, data: Tensor, n: int) -> Tensor:
    """What `pack_mask` gave -> bool (n,); InputFileError where it does not fit."""
    if encoding == "bitmap":
        return unpack_bits(data, n)
    if encoding != "rice":
        raise InputFileError(f"the encoding {encoding!r} is not one of a mask (those are bitmap, rice).")
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise InputFileError(f"the mask is {data.dtype} with shape {tuple(data.shape)}, not a row of bytes.")
    return torch.from_numpy(rice.decode(data.numpy(), n))


def unpack_bits(data: Tensor, n: int) -> Tensor:
    """uint8 (ceil(n / 8),) -> bool (n,); InputFileError for a wrong length or padding that is not 0."""
    if data.dtype != torch.uint8 or data.dim() != 1:
        raise InputFileError(f"the bitmap is {data.dtype} with shape {tuple(data.shape)}, not a row of bytes.")
    return torch.from_numpy(_from_bits(data.numpy(), n, "bitmap").astype(np.bool_))


def _smallest(flat: Codes, levels: int, binary: bool) -> tuple[str, Bytes]:
    encodings = _fitting(levels, binary)
    dense = encodings[0]
    if binary:
        return dense, _encode(dense, flat, levels)
    places, kept = rice.survey(flat, _size("bits", len(flat))), _kept_encoding(levels)
    encoding, size = _smaller_map(places)
    if size + _size(kept, places.kept) < _size(dense, len(flat)):
        values = storage.encode(kept, flat, levels, _size(kept, places.kept), (places.bitmap, places.kept))
        if values is None:
            values = _encode(kept, flat[flat != 0], levels)
        return encoding, np.concatenate([_encode_map(encoding, places), values])
    return dense, _encode(dense, flat, levels)


def _smaller_map(places: rice.Places) -> tuple[str, int]:
    """The encoding of what is kept that takes fewer bytes, and how many; a bitmap where both take the same."""
    n, bitmap = places.n, _size("bits", places.n)
    if places.r < 0 or places.size >= bitmap:
        return "bitmap", bitmap
    readable = n <= max(MAX_SMALL, MAX_EXPANSION * places.size) and n <= rice.MAX_N
    return ("rice", places.size) if readable else ("bitmap", bitmap)


def _encode_map(encoding: str, places: rice.Places) -> Bytes:
    return rice.write(places) if encoding == "rice" else places.bitmap


def _fitting(levels: int, binary: bool) -> tuple[str, ...]:
    """The encodings of an alphabet, the dense one first."""
    if binary:
        return ("bits",)
    if levels == 1:
        return ("base3", "bitmap", "rice")
    return ("u3" if levels <= 3 else "u4" if levels <= 7 else "u8", "bitmap", "rice")


def _kept_encoding(levels: int) -> str:
    return "bits" if levels == 1 else _fitting(levels, False)[0]


def _size(encoding: str, n: int) -> int:
    """The bytes that n codes take."""
    return -(-n // 5) if encoding == "base3" else -(-n * WIDTHS.get(encoding, 1) // 8)


def _encode(encoding: str, flat: Codes, levels: int) -> Bytes:
    data = storage.encode(encoding, flat, levels, _size(encoding, len(flat)))
    return _encode_plainly(encoding, flat, levels) if data is None else data


def _encode_plainly(encoding: str, flat: Codes, levels: int) -> Bytes:
    if encoding == "bits":
        return np.packbits(flat > 0, bitorder="little")
    if encoding == "base3":
        digits = np.zeros(_size(encoding, len(flat)) * 5, dtype=np.uint8)
        digits[: len(flat)] = flat + 1
        return (digits.reshape(-1, 5) @ _POWERS).astype(np.uint8)
    shifted = (flat.astype(np.int16) + levels).astype(np.uint8)
    if encoding == "u8":
        return shifted
    if encoding == "u4":
        even = np.zeros(_size(encoding, len(flat)) * 2, dtype=np.uint8)
        even[: len(flat)] = shifted
        return (even[0::2] | (even[1::2] << 4)).astype(np.uint8)
    bits = np.unpackbits(shifted[:, None], axis=1, count=3, bitorder="little")
    return np.packbits(bits, bitorder="little")


def _decode(encoding: str, data: Bytes, n: int, levels: int) -> Codes:
    if len(data) != _size(encoding, n):
        raise InputFileError(f"{n} codes in {encoding} take {_size(encoding, n)} bytes, but {len(data)} are stored.")
    codes = storage.decode(encoding, data, n, levels)
    return _decode_plainly(encoding, data, n, levels) if codes is None else codes


def _decode_plainly(encoding: str, data: Bytes, n: int, levels: int) -> Codes:
    if encoding == "bits":
        return _from_bits(data, n, encoding).astype(np.int8) * 2 - 1
    if encoding == "base3":
        return _from_base3(data, n)
    if encoding == "u3":
        shifted = np.packbits(_from_bits(data, 3 * n, encoding).reshape(-1, 3), axis=1, bitorder="little")[:, 0]
    elif encoding == "u4":
        nibbles = np.stack([data & 15, data >> 4], axis=1).reshape(-1)
        _check_padding(nibbles[n:], encoding)
        shifted = nibbles[:n]
    else:
        shifted = data
    if n and int(shifted.max()) > 2 * levels:
        highest = int(shifted.max())
        raise InputFileError(f"a stored {encoding} code is {highest}, but {levels} levels go up to {2 * levels}.")
    return (shifted.astype(np.int16) - levels).astype(np.int8)


def _from_bits(data: Bytes, n: int, encoding: str) -> Bytes:
    if len(data) != -(-n // 8):
        raise InputFileError(f"{n} bits of {encoding} take {-(-n // 8)} bytes, but {len(data)} are stored.")
    bits = np.unpackbits(data, bitorder="little")
    _check_padding(bits[n:], encoding)
    return bits[:n]


def _from_base3(data: Bytes, n: int) -> Codes:
    if n and int(data.max()) > 242:
        raise InputFileError(f"a base3 byte is {int(data.max())}, but five codes give at most 242.")
    codes = _DIGITS[data].reshape(-1)
    _check_padding(codes[n:] + 1, "base3")
    return codes[:n]


def _from_kept(encoding: str, data: Bytes, n: int, levels: int) -> Codes:
    if encoding == "bitmap":
        split = -(-n // 8)
        if len(data) < split:
            raise InputFileError(f"the bitmap of {n} codes takes {split} bytes, but {len(data)} are stored.")
        bitmap = data[:split]
        _check_padding(bitmap[-1:] >> (n % 8 or 8), "bitmap")
    else:
        split = len(data) - _size(_kept_encoding(levels), rice.count(data))
        bitmap = rice.decode_bitmap(data[: max(0, split)], n)
    kept, dense = storage.count(bitmap), _kept_encoding(levels)
    if len(data) - split == _size(dense, kept):
        codes = storage.decode(dense, data[split:], n, levels, (bitmap, kept))
        if codes is not None:
            return codes
    keep = np.unpackbits(bitmap, count=n, bitorder="little").astype(np.bool_)
    values = _decode(dense, data[split:], kept, levels)
    if not values.all():
        raise InputFileError(f"{int((values == 0).sum())} codes that the {encoding} keeps are 0.")
    codes = np.zeros(n, dtype=np.int8)
    codes[keep] = values
    return codes


def _check_padding(rest: NDArray[Any], encoding: str) -> None:
    if rest.any():
        raise InputFileError(f"the unused places of the last {encoding} byte are not 0.")


def _check_alphabet(flat: Codes, levels: int, binary: bool) -> None:
    if not 1 <= levels <= MAX_LEVELS or (binary and levels != 1):
        raise WeightError(f"{levels} levels{' of binary codes' if binary else ''} cannot be stored in a byte.")
    low, high = (int(flat.min()), int(flat.max())) if len(flat) else (0, 0)
    if low < -levels or high > levels:
        raise WeightError(f"the codes run from {low} to {high}, outside [-{levels}, {levels}].")
    if binary and not flat.all():
        raise WeightError(f"{int((flat == 0).sum())} binary codes are 0; they must be -1 or 1.")
