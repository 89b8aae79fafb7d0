"""Noise that depends on nothing but its key: no hidden state, no dependence on batch size, order or resume.

A key names the purpose, for example (seed, "pgd", restart); each image adds its own index. Numbers come from a
counter-based generator (the SplitMix64 finaliser over key and counter), so any image's draws can be made alone.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1 << 22  # numbers made at a time, so that the uint64 scratch stays in tens of MB


def uniform(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """index (n,) int64 -> (n, *shape) float32 uniform in [0, 1), row i a function of key and index[i] alone."""
    return torch.from_numpy(_uniform(key, index.cpu().numpy(), math.prod(shape))).view(len(index), *shape)


def normal(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """index (n,) int64 -> (n, *shape) float32 standard normal (Box-Muller), row i from key and index[i] alone."""
    count = math.prod(shape)
    half = (count + 1) // 2
    u = _uniform(key, index.cpu().numpy(), 2 * half).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, :half]))
    angle = 2.0 * np.pi * u[:, half:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
    return torch.from_numpy(both.astype(np.float32)).view(len(index), *shape)


def permutation(key: tuple[int | str, ...], n: int) -> Tensor:
    """(n,) int64, a random order of 0..n-1 that depends on the key alone."""
    return torch.randperm(n, generator=generator(*key))


def number(*key: int | str) -> int:
    """A seed in [0, 2^63) that depends on the key alone."""
    return int(_hash(key) >> np.uint64(1))


def generator(*key: int | str) -> torch.Generator:
    """A torch.Generator seeded from a key, for library calls that want one."""
    return torch.Generator().manual_seed(number(*key))


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """torch's default generator set from a key inside the block, as it was after it.

    For networks that draw by themselves (dropout, noise layers): their draws then depend on the key alone.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(number(*key))
        yield


def _hash(key: tuple[int | str, ...]) -> np.uint64:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, in place, on uint64."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _uniform(key: tuple[int | str, ...], index: np.ndarray, count: int) -> np.ndarray:
    out = np.empty((len(index), count), np.float32)
    rows = max(1, _BLOCK // max(1, count))
    counter = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    for begin in range(0, len(index), rows):
        part = index[begin : begin + rows].astype(np.uint64)
        # The index is hashed before the counter is added: streams of neighbouring images must not overlap.
        start = _mix(_mix(part * _GOLDEN + _hash(key)) ^ _hash((*key, "stream")))
        bits = _mix(start[:, None] + counter[None, :]) >> np.uint64(40)
        out[begin : begin + rows] = bits.astype(np.float32) * np.float32(2.0**-24)
    return out
