"""The ops on arguments that may not fit together: the native code gives the answer or the error of the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustq.kernels import backend, lowbit, lowbit_ops, ops, reference, sparse

pytestmark = pytest.mark.skipif(backend.native is None, reason="the native module is not built")
Arguments = dict[str, Any]
KERNELS = st.sampled_from(["auto", "always", "never"])  # with lists of what is not zero, or without
NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 64, 2**31, 2**40, 2**62, -(2**63))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.int8, torch.uint8, torch.int32, torch.bool)


def misaligned(tensor: Tensor) -> Tensor:
    """The same values one byte off."""
    data = tensor.contiguous()
    room = torch.zeros(data.nbytes + 1, dtype=torch.uint8)
    room[1:] = data.reshape(-1).view(torch.uint8)
    return torch.frombuffer(room.numpy(), dtype=data.dtype, offset=1).view(data.shape)


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 1]


CHANGES: list[Callable[[Tensor], Any]] = [
    misaligned,
    strided,
    lambda t: t[:-1],
    lambda t: t[..., :-1],
    lambda t: t[:0],
    lambda t: torch.cat([t, t]),
    lambda t: torch.cat([t, t], -1),
    lambda t: t[None],
    lambda t: t.flatten(),
    lambda t: t.transpose(0, -1),
    lambda t: t.sum(),
    *(lambda t, dtype=dtype: t.to(dtype) for dtype in DTYPES),
]


def changed(arguments: Arguments, data: st.DataObject) -> Arguments:
    """Up to two arguments altered, more or less badly."""
    made = dict(arguments)
    for name in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2, unique=True)):
        value = made[name]
        if isinstance(value, Tensor):
            absent = name in ("bias", "zero") and data.draw(st.booleans())
            made[name] = None if absent else data.draw(st.sampled_from(CHANGES))(value)
        elif isinstance(value, list):
            made[name] = data.draw(st.lists(st.sampled_from(NUMBERS), max_size=3))
        elif isinstance(value, str):
            made[name] = data.draw(st.sampled_from(["exact", "accurate", "int8", ""]))
        elif value is not None and not isinstance(value, bool):
            made[name] = data.draw(st.sampled_from(NUMBERS))
    return made


def outcome(call: Callable[..., Tensor], arguments: Arguments) -> Tensor | type[Exception]:
    try:
        return call(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        return type(error)


def alike(op: Callable[..., Tensor], plain: Callable[..., Tensor], arguments: Arguments) -> None:
    ours, wanted = outcome(op, arguments), outcome(plain, arguments)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    if isinstance(ours, Tensor):
        assert isinstance(wanted, Tensor), wanted
        assert ours.shape == wanted.shape
        assert ours.dtype == wanted.dtype
        assert torch.allclose(ours.double(), wanted.double(), rtol=1e-3, atol=1e-3, equal_nan=True)
    elif isinstance(wanted, Tensor):  # addresses that no float can have are refused besides, and numbers from 2^31 on
        assert ours is ValueError
        numbers = [number for value in arguments.values() if isinstance(value, list) for number in value]
        assert max(numbers, default=0) >= 2**31 or any(t.data_ptr() % t.element_size() for t in tensors)


def ternary(rng: torch.Generator, groups: int) -> Arguments:
    codes = torch.randint(-1, 2, (20, 37), generator=rng).to(torch.int8)
    return {
        "x": torch.randn(3, 37, generator=rng),
        "packed": reference.pack(codes),
        "scale": torch.rand(20, groups, generator=rng),
        "bias": torch.randn(20, generator=rng),
        "out_features": 20,
        "in_features": 37,
    }


def integer(rng: torch.Generator, bits: int, mode: str, groups: int) -> Arguments:
    highest = lowbit.HIGHEST[bits]
    codes = torch.randint(-highest, highest + 1, (20, 37), generator=rng).to(torch.int8)
    return {
        "x": torch.randn(3, 37, generator=rng),
        "packed": lowbit.pack(codes, bits, groups),
        "scale": torch.rand(groups, 20, generator=rng),
        "bias": torch.randn(20, generator=rng),
        "bits": bits,
        "in_features": 37,
        "mode": mode,
        "relu": False,
        "zero": torch.randint(0, 2**bits, (2, 20), generator=rng).to(torch.uint8) if groups == 2 else None,
    }


def convolution(rng: torch.Generator, bits: int, mode: str) -> Arguments:
    codes = torch.randint(-1, 2, (5, 3, 2, 3), generator=rng).to(torch.int8)
    return {
        "x": torch.randn(2, 3, 5, 6, generator=rng),
        "packed": lowbit.pack_kernel(codes, bits),
        "scale": torch.rand(1, 5, generator=rng),
        "bias": torch.randn(5, generator=rng),
        "bits": bits,
        "kernel": [2, 3],
        "stride": [1, 2],
        "padding": [1, 0],
        "dilation": [1, 1],
        "groups": 1,
        "mode": mode,
        "relu": True,
    }


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_exact_ops_on_any_arguments(data: st.DataObject) -> None:
    arguments = changed(ternary(torch.Generator().manual_seed(0), data.draw(st.integers(1, 2))), data)
    with sparse.choice(data.draw(KERNELS)):
        alike(ops.ternary_linear, reference.ternary_linear, arguments)
    del arguments["x"], arguments["bias"]
    alike(ops.ternary_dense, reference.ternary_dense, arguments)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from([2, 4]), st.sampled_from(["exact", "accurate", "int8"]), st.data())
def test_integer_ops_on_any_arguments(bits: int, mode: str, data: st.DataObject) -> None:
    rng = torch.Generator().manual_seed(0)
    with sparse.choice(data.draw(KERNELS)):
        alike(
            lowbit_ops.lowbit_linear,
            lowbit.linear,
            changed(integer(rng, bits, mode, data.draw(st.integers(1, 2))), data),
        )
    alike(lowbit_ops.lowbit_conv2d, lowbit.conv2d, changed(convolution(rng, bits, mode), data))
