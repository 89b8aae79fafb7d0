"""Small images as PNG files (ISO/IEC 15948), so that a report can show them without an imaging library."""

import struct
import zlib

import torch
from torch import Tensor

_GREY, _COLOUR = 0, 2


def encode(image: Tensor) -> bytes:
    """(c, h, w) floats in [0, 1], rounded to 8 bits -> a PNG file.

    Three channels are colours, of four the last is left out; any other number is shown as its mean, in grey.
    """
    c, h, w = image.shape
    shown = image[:3] if c in (3, 4) else image.float().mean(0, keepdim=True)
    pixels = shown.float().mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).reshape(h, -1).cpu()
    rows = torch.cat([torch.zeros(h, 1, dtype=torch.uint8), pixels], 1)  # each row begins with its filter: none
    head = struct.pack(">IIBBBBB", w, h, 8, _COLOUR if len(shown) == 3 else _GREY, 0, 0, 0)
    body = zlib.compress(rows.contiguous().numpy().tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
