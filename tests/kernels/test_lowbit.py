"""The ops on packed codes against float64, on every instruction set this machine offers; refusals; autograd."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, lowbit, lowbit_ops

ISAS = list(backend.native.available()) if backend.native else []
BOUND = {"exact": 2e-6, "accurate": 1e-4, "int8": 2.5e-2}  # max |error| / max |y|, Gaussian x
needs_native = pytest.mark.skipif(not ISAS, reason="the native module is not built")


@pytest.fixture(params=["reference", *ISAS])
def ops_on(request: pytest.FixtureRequest) -> Iterator[tuple[Callable[..., Tensor], Callable[..., Tensor]]]:
    """Linear and convolution on the reference and on each instruction set."""
    if request.param == "reference":
        yield lowbit.linear, lowbit.conv2d
        return
    before = backend.native.isa()
    backend.native.use(request.param)
    yield torch.ops.robustq.lowbit_linear, torch.ops.robustq.lowbit_conv2d
    backend.native.use(before)


def case(rows: int, out: int, columns: int, groups: int, bits: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x, codes, scale (groups, out), bias: Gaussian x, uniform codes, scales of one size."""
    rng = torch.Generator().manual_seed(seed)
    highest = lowbit.HIGHEST[bits]
    codes = torch.randint(-highest, highest + 1, (out, columns), generator=rng).to(torch.int8)
    scale = torch.rand(groups, out, generator=rng) + 0.5
    return torch.randn(rows, columns, generator=rng), codes, scale, torch.randn(out, generator=rng)


def dense64(codes: Tensor, scale: Tensor) -> Tensor:
    """codes * scale in float64, one group at a time (nothing of the kernels is used)."""
    width = -(-codes.shape[1] // scale.shape[0])
    weight = codes.double().clone()
    for group, factor in enumerate(scale.double()):
        weight[:, group * width : (group + 1) * width] *= factor[:, None]
    return weight


def error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def dtype_bound(mode: str, dtype: torch.dtype) -> float:
    """Mode "exact" sums float64 in float64."""
    return 1e-14 if (mode, dtype) == ("exact", torch.float64) else BOUND["accurate"] + torch.finfo(dtype).eps


def rounded64(x: Tensor, mode: str) -> Tensor:
    """The integers that stand for each row, times its scale, in float64; numbers rounded as float32 rounds them."""
    if mode == "exact":
        return x.double()
    levels = {"accurate": 32512.0, "int8": 127.0}[mode]
    most = x.abs().amax(-1, keepdim=True)
    return (x * (torch.tensor(levels) / most)).round().double() * (most.double() / levels)


@pytest.mark.parametrize("mode", BOUND)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    ("rows", "out", "columns", "groups"),
    [
        (1, 1, 1, 1),
        (1, 10, 84, 1),
        (3, 130, 1030, 7),  # groups that are no whole steps
        (7, 20, 16, 16),  # a scale for each weight
        (5, 33, 10, 6),  # ceil(10 / 6) = 2: the sixth group is empty
        (50, 200, 515, 3),  # enough rows that blocks are decoded first
        (13, 65, 4101, 1),  # more columns than one sum of 32 bits takes
        (37, 17, 129, 2),
    ],
)
def test_linear_agrees_with_float64(
    ops_on: tuple[Callable[..., Tensor], ...], rows: int, out: int, columns: int, groups: int, bits: int, mode: str
) -> None:
    x, codes, scale, bias = case(rows, out, columns, groups, bits)
    y = ops_on[0](x, lowbit.pack(codes, bits, groups), scale, bias, bits, columns, mode, False)
    weight = dense64(codes, scale)
    assert y.dtype == torch.float32
    if rows * out > 20:  # the maximum of a few outputs may be small by chance
        assert error(y, F.linear(x.double(), weight, bias.double())) <= BOUND[mode]
    # Beyond the rounding of the activations there is only that of float32.
    assert error(y, F.linear(rounded64(x, mode), weight, bias.double())) <= 2e-6


@pytest.mark.parametrize("bits", [2, 4])
def test_an_outlier_costs_the_accurate_mode_little(ops_on: tuple[Callable[..., Tensor], ...], bits: int) -> None:
    x, codes, scale, _ = case(16, 64, 4096, 1, bits)
    x[:, 17] = 50
    y = ops_on[0](x, lowbit.pack(codes, bits), scale, None, bits, 4096, "accurate", False)
    assert error(y, F.linear(x.double(), dense64(codes, scale))) <= 1e-3


def asymmetric(rows: int, out: int, columns: int, groups: int, bits: int) -> tuple[Tensor, ...]:
    """x, fields and zero points of all the bits hold, scale (groups, out), weight in float64."""
    x, _, scale, _ = case(rows, out, columns, groups, bits)
    rng = torch.Generator().manual_seed(1)
    sizes = [(out, columns), (groups, out)]
    fields, zero = (torch.randint(0, 2**bits, size, generator=rng).to(torch.uint8) for size in sizes)
    width = -(-columns // groups)
    shifts = zero.double().T.repeat_interleave(width, 1)[:, :columns]
    return x, fields, zero, scale, dense64(fields.double() - shifts, scale)


@pytest.mark.parametrize(("mode", "bound"), [("exact", 1e-5), ("accurate", 1e-4), ("int8", 2.5e-2)])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    ("rows", "out", "columns", "groups"), [(1, 70, 1030, 7), (2, 300, 256, 2), (13, 65, 4101, 1), (50, 130, 515, 3)]
)
def test_zero_points_agree_with_float64(
    ops_on: tuple[Callable[..., Tensor], ...],
    rows: int,
    out: int,
    columns: int,
    groups: int,
    bits: int,
    mode: str,
    bound: float,
) -> None:
    x, fields, zero, scale, weight = asymmetric(rows, out, columns, groups, bits)
    packed = lowbit.pack_fields(fields, bits, groups)
    y = ops_on[0](x, packed, scale, None, bits, columns, mode, False, zero)
    assert error(y, F.linear(x.double(), weight)) <= bound
    assert torch.equal(lowbit.dense(packed, scale, bits, columns, zero).double(), weight.float().double())
    if mode == "accurate":
        x[:, 17] = 50
        y = ops_on[0](x, packed, scale, None, bits, columns, mode, False, zero)
        assert error(y, F.linear(x.double(), weight)) <= 1e-3
    usual = torch.full_like(zero, lowbit.ZERO[bits])
    plain = ops_on[0](x, packed, scale, None, bits, columns, mode, True)
    assert torch.equal(ops_on[0](x, packed, scale, None, bits, columns, mode, True, usual), plain)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    ("out", "columns", "groups"),
    [(63, 128, 1), (64, 512, 16), (65, 192, 2), (130, 1020, 8), (200, 70, 1)],  # of 32, 96 and 128 columns
)
def test_exact_groups_that_a_matrix_unit_takes(
    ops_on: tuple[Callable[..., Tensor], ...], out: int, columns: int, groups: int, bits: int, zeros: bool
) -> None:
    """Rows one, few, a tile, two, and what is left of a third; with bias and ReLU."""
    x, fields, zero, scale, weight = asymmetric(35, out, columns, groups, bits)
    packed, bias = lowbit.pack_fields(fields, bits, groups), torch.linspace(-9, 9, out)
    if not zeros:
        weight = dense64(lowbit.decode(packed, bits, out, columns, groups).double(), scale)
    wanted = F.linear(x.double(), weight, bias.double()).relu()
    for rows in (1, 2, 3, 4, 16, 17, 35):
        y = ops_on[0](x[:rows], packed, scale, bias, bits, columns, "exact", True, zero if zeros else None)
        assert error(y, wanted[:rows]) <= 2e-6


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1.0, 1e30])
def test_exact_layers_keep_what_is_small_beside_the_largest(
    ops_on: tuple[Callable[..., Tensor], ...], size: float
) -> None:
    """Half of the outputs do not see the one activation that is 2^17 times as large as others."""
    x, codes, scale, _ = case(5, 96, 640, 5, 4)
    codes[::2, 7] = 0
    x[:, 7] = 2.0**17
    x = x.clamp(-(2.0**17), 2.0**17) * size
    packed, weight = lowbit.pack(codes, 4, 5), dense64(codes, scale)
    for rows in (1, 3, 5) if size > 1e-37 else (1, 3):  # bfloat16 has nothing below 2^-126
        y = ops_on[0](x[:rows], packed, scale, None, 4, 640, "exact", False)
        wanted = F.linear(x[:rows].double(), weight)
        assert error(y[:, ::2], wanted[:, ::2]) <= (2e-6 if size > 1e-37 else 1e-3)  # x itself has few bits there
        assert error(y, wanted) <= 2e-6


def test_exact_layers_of_many_outputs(ops_on: tuple[Callable[..., Tensor], ...]) -> None:
    """More than are decoded at a time; float16, no rows."""
    x, fields, zero, scale, weight = asymmetric(3, 2100, 70, 2, 4)
    bias, packed = torch.ones(2100), lowbit.pack_fields(fields, 4, 2)
    y = ops_on[0](x.half(), packed, scale, bias, 4, 70, "exact", True, zero)
    assert y.dtype == torch.float16
    exact = (F.linear(x.half().double(), weight) + 1).relu()
    assert float((y.double() - exact).abs().max() / exact.abs().max()) <= 1e-3
    assert ops_on[0](x[:0], packed, scale, None, 4, 70, "exact", False, zero).shape == (0, 2100)
    dense = lowbit_ops.lowbit_dense(packed, scale, 4, 70, zero)
    assert torch.equal(dense, lowbit.dense(packed, scale, 4, 70, zero))
    torch.library.opcheck(torch.ops.robustq.lowbit_dense, (packed, scale, 4, 70, zero))


def test_gradient_with_zero_points() -> None:
    x, fields, zero, scale, weight = asymmetric(5, 30, 70, 3, 4)
    x.requires_grad_()
    packed = lowbit.pack_fields(fields, 4, 3)
    arguments = (x, packed, scale, None, 4, 70, "accurate", False, zero)
    torch.library.opcheck(torch.ops.robustq.lowbit_linear, arguments)
    (found,) = torch.autograd.grad(torch.ops.robustq.lowbit_linear(*arguments).square().sum(), x)
    wanted = 2 * F.linear(x.detach().double(), weight) @ weight
    assert error(found, wanted) <= 1e-3


@needs_native
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 140), st.integers(1, 90), st.sampled_from([2, 4]), st.booleans(), st.data())
def test_native_is_the_reference_at_any_size(
    rows: int, out: int, columns: int, bits: int, relu: bool, data: st.DataObject
) -> None:
    groups = data.draw(st.integers(1, columns))
    mode = data.draw(st.sampled_from(["accurate", "int8"]))
    x, codes, scale, bias = case(rows, out, columns, groups, bits, seed=data.draw(st.integers(0, 99)))
    packed = lowbit.pack(codes, bits, groups)
    assert torch.equal(lowbit.unpack(packed, bits, out, columns, groups), codes)
    weight = dense64(codes, scale)
    assert torch.equal(lowbit.dense(packed, scale, bits, columns).double(), weight.float().double())
    found = lowbit_ops.lowbit_linear(x, packed, scale, bias, bits, columns, mode, relu)
    wanted = lowbit.linear(x, packed, scale, bias, bits, columns, mode, relu)
    bound = 1e-5 * float((F.linear(x.double().abs(), weight.abs()) + bias.abs()).max())
    assert float((found - wanted).abs().max()) <= bound
    assert not relu or float(found.min()) >= 0


@needs_native
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(1, 70), st.sampled_from([2, 4]), st.data())
def test_any_bytes_are_some_weight(rows: int, out: int, columns: int, bits: int, data: st.DataObject) -> None:
    """Corrupt codes give what `decode` reads, never a crash."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = torch.Generator().manual_seed(seed)
    shape = (-(-out // 64), lowbit.steps(columns, 1), 32 * bits)
    packed = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    x = torch.randint(-127, 128, (rows, columns), generator=rng).float()
    x[:, 0] = 127.0  # int8 then has the scale 1, and the result is exact
    y = lowbit_ops.lowbit_linear(x, packed, torch.ones(1, out), None, bits, columns, "int8")
    codes = lowbit.decode(packed, bits, out, columns, 1)
    assert torch.equal(y.double(), F.linear(x.double(), codes.double()))


WINDOWS: list[Any] = [  # shape of x, outputs, kernel, stride, padding, dilation, groups
    ((2, 3, 8, 8), 20, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 16, 9, 7), 70, (3, 1), (2, 1), (1, 0), (1, 1), 1),
    ((3, 5, 11, 11), 16, (3, 3), (2, 2), (2, 2), (2, 2), 1),
    ((2, 64, 4, 4), 128, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((2, 6, 5, 5), 9, (1, 1), (2, 2), (0, 0), (1, 1), 1),
    ((1, 1, 28, 28), 6, (5, 5), (1, 1), (2, 2), (1, 1), 1),
    ((2, 480, 3, 3), 7, (3, 3), (1, 1), (1, 1), (1, 1), 1),  # 4320 columns: more than a matrix unit takes in one sweep
    ((3, 32, 2, 2), 130, (3, 3), (1, 1), (1, 1), (1, 1), 1),  # a tile spans images; parts of a run are filled up
    ((2, 12, 20, 33), 48, (3, 3), (2, 2), (1, 1), (1, 1), 1),  # lines that are no whole strides
    ((2, 7, 6, 9), 14, (3, 3), (1, 1), (1, 1), (1, 1), 7),
    ((1, 40, 7, 7), 40, (3, 3), (2, 1), (1, 1), (1, 1), 40),  # depthwise
    ((2, 36, 5, 6), 24, (1, 3), (1, 1), (0, 2), (1, 2), 3),  # blocks of 16 outputs that two groups share
    ((1, 160, 4, 4), 96, (3, 3), (1, 1), (1, 1), (1, 1), 2),
]


@pytest.mark.parametrize("mode", BOUND)
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("window", WINDOWS)
def test_convolution_agrees_with_float64(
    ops_on: tuple[Callable[..., Tensor], ...], window: Any, bits: int, mode: str
) -> None:
    shape, out, kernel, stride, padding, dilation, groups = window
    _, flat, scale, bias = case(1, out, shape[1] // groups * kernel[0] * kernel[1], 1, bits)
    codes = flat.view(out, shape[1] // groups, *kernel)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    sizes: list[Any] = [list(pair) for pair in (kernel, stride, padding, dilation)]
    sizes.append(groups)
    y = ops_on[1](x, lowbit.pack_kernel(codes, bits), scale, bias, bits, *sizes, mode, False)
    weight = codes.double() * scale.double().view(-1, 1, 1, 1)
    exact = F.conv2d(x.double(), weight, bias.double(), stride, padding, dilation, groups)
    values = rounded64(x.flatten(1), mode).view(shape)
    assert y.shape == exact.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, exact) <= BOUND[mode]
    assert error(y, F.conv2d(values, weight, bias.double(), stride, padding, dilation, groups)) <= 2e-6
    active = ops_on[1](x, lowbit.pack_kernel(codes, bits), scale, bias, bits, *sizes, mode, True)
    assert torch.equal(active, y.relu())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(8, 1), (12, 12), (12, 2)])
def test_exact_convolutions_take_nan_and_infinity_where_torch_does(
    ops_on: tuple[Callable[..., Tensor], ...], channels: int, groups: int, relu: bool
) -> None:
    """Zeros among the codes meet them too, and other images are as they were."""
    _, flat, scale, bias = case(1, 24, channels // groups * 9, 1, 4)
    codes, sizes = flat.view(24, -1, 3, 3), ([3, 3], [1, 1], [1, 1], [1, 1], groups)
    x = torch.randn(3, channels, 7, 6, generator=torch.Generator().manual_seed(1))
    clean = ops_on[1](x, lowbit.pack_kernel(codes, 4), scale, bias, 4, *sizes, "exact", relu)
    x[0, 3, 2, 2], x[1, 5, 4, 4], x[1, 5, 1, 1] = float("nan"), float("inf"), float("-inf")
    y = ops_on[1](x, lowbit.pack_kernel(codes, 4), scale, bias, 4, *sizes, "exact", relu)
    wanted = F.conv2d(x, codes * scale.view(-1, 1, 1, 1), bias, padding=1, groups=groups)
    assert torch.allclose(y, wanted.relu() if relu else wanted, 1e-5, 1e-4, equal_nan=True)
    assert torch.equal(y[2], clean[2])


@pytest.mark.parametrize("mode", ["exact", "accurate"])
def test_other_dtypes_of_a_convolution(ops_on: tuple[Callable[..., Tensor], ...], mode: str) -> None:
    _, flat, scale, bias = case(1, 6, 3 * 6, 1, 4)
    packed, sizes = lowbit.pack_kernel(flat.view(6, 3, 2, 3), 4), ([2, 3], [1, 2], [1, 0], [1, 1], 1)
    x = torch.randn(2, 3, 4, 7, generator=torch.Generator().manual_seed(1)).double()
    weight = (flat.float() * scale.view(-1, 1)).double().view(6, 3, 2, 3)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        y = ops_on[1](x.to(dtype), packed, scale, bias.to(dtype), 4, *sizes, mode, False)
        assert y.dtype == dtype
        exact = F.conv2d(x.to(dtype).double(), weight, bias.to(dtype).double(), (1, 2), (1, 0))
        assert error(y, exact) <= dtype_bound(mode, dtype)


@pytest.mark.parametrize("relu", [False, True])
def test_exact_gradients_are_finite_differences(relu: bool) -> None:
    x, codes, scale, bias = case(5, 6, 18, 2, 4)
    leaves = [t.double().requires_grad_() for t in (x, bias)]
    packed = lowbit.pack(codes, 4, 2)
    assert torch.autograd.gradcheck(
        lambda x, bias: lowbit_ops.lowbit_linear(x, packed, scale, bias, 4, 18, "exact", relu), leaves
    )
    kernel, sizes = lowbit.pack_kernel(codes.view(6, 3, 2, 3), 4), ([2, 3], [1, 2], [1, 0], [1, 1], 1)
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, bias: lowbit_ops.lowbit_conv2d(x, kernel, scale[:1], bias, 4, *sizes, "exact", relu),
        [image, leaves[1]],
    )


def test_packing_by_hand() -> None:
    codes = torch.zeros(70, 6, dtype=torch.int8)
    codes[0, 0], codes[17, 5], codes[69, 1] = 1, -1, 1
    two = lowbit.pack(codes, 2)
    assert two.shape == (2, 2, 64)
    assert two[0, 0, 0].item() == 0b01_01_01_10  # output 0 in the lowest field, 16, 32 and 48 zero
    assert two[0, 1, 4 * 1 + 1].item() == 0b01_01_00_01  # output 17 is lane 1 of field 1; column 5 is 1 of step 1
    assert two[1, 0, 4 * 5 + 1].item() == 0b01_01_01_10
    assert int((two != 0b01_01_01_01).sum()) == 3
    four = lowbit.pack(codes * 7, 4)
    assert four.shape == (2, 2, 128)
    assert four[0, 0, 0].item() == 0x8F
    assert four[0, 1, 4 * 1 + 1].item() == 0x18
    assert int((four != 0x88).sum()) == 3


def test_a_row_is_rounded_by_itself(ops_on: tuple[Callable[..., Tensor], ...]) -> None:
    x, codes, scale, _ = case(30, 20, 50, 1, 2)
    packed = lowbit.pack(codes, 2)
    x[1], x[2] = 0.0, 1e-31
    x[3] *= 1e20
    x[4, 7], x[5, 8] = float("inf"), float("nan")
    y = ops_on[0](x, packed, scale, None, 2, 50, "int8", False)
    alone = torch.cat([ops_on[0](row[None], packed, scale, None, 2, 50, "int8", False) for row in x])
    assert torch.equal(y[1:3], torch.zeros(2, 20))
    assert y[4:6].isnan().all()
    keep = [i for i in range(30) if i not in (4, 5)]
    assert torch.allclose(y[keep], alone[keep], rtol=1e-5, atol=1e-4)
    assert not y[keep].isnan().any()


def test_strided_and_empty_inputs(ops_on: tuple[Callable[..., Tensor], ...]) -> None:
    x, codes, scale, bias = case(24, 20, 40, 2, 4)
    packed, exact = lowbit.pack(codes, 4, 2), F.linear(x.double(), dense64(codes, scale), bias.double())
    loose = torch.stack([packed, packed], dim=-1)[..., 1]
    strided = torch.stack([x, x], dim=-1)[..., 0]
    for given_x, given_packed in [(strided, packed), (x.T.contiguous().T, packed), (x, loose)]:
        y = ops_on[0](given_x, given_packed, scale.T.contiguous().T, bias, 4, 40, "accurate", False)
        assert error(y, exact) <= 1e-4
    for shape in [(2, 3, 4, 40), (40,), (0, 40), (24, 0, 40)]:
        y = ops_on[0](x.flatten()[: torch.Size(shape).numel()].view(shape), packed, scale, bias, 4, 40, "int8", False)
        assert y.shape == (*shape[:-1], 20)
    kernel = lowbit.pack_kernel(torch.ones(20, 3, 1, 1, dtype=torch.int8), 2)
    one: list[Any] = [[1, 1], [1, 1], [0, 0], [1, 1], 1]
    assert ops_on[1](torch.zeros(0, 3, 5, 5), kernel, scale[:1], bias, 2, *one, "int8", False).shape == (0, 20, 5, 5)
    image = torch.randn(2, 5, 5, 3, generator=torch.Generator().manual_seed(1)).permute(0, 3, 1, 2)
    y = ops_on[1](image, kernel, scale[:1], None, 2, *one, "accurate", False)
    assert error(y, image.double().sum(1, keepdim=True) * scale[0].double().view(1, -1, 1, 1)) <= 1e-4


@pytest.mark.parametrize("mode", ["exact", "accurate"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(ops_on: tuple[Callable[..., Tensor], ...], dtype: torch.dtype, mode: str) -> None:
    x, codes, scale, bias = case(9, 30, 50, 1, 2)
    x, packed = x.to(dtype), lowbit.pack(codes, 2)
    y = ops_on[0](x, packed, scale, bias.to(dtype), 2, 50, mode, False)
    assert y.dtype == dtype
    exact = F.linear(x.double(), dense64(codes, scale), bias.to(dtype).double())
    assert error(y, exact) <= dtype_bound(mode, dtype)


@needs_native
def test_threads_do_not_change_a_bit() -> None:
    before = torch.get_num_threads()
    for rows, out, columns in [(300, 70, 900), (1, 6000, 3000), (64, 512, 1500)]:
        x, codes, scale, bias = case(rows, out, columns, 1, 2)
        packed, answers = lowbit.pack(codes, 2), []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            answers.append(lowbit_ops.lowbit_linear(x, packed, scale, bias, 2, columns))
        torch.set_num_threads(before)
        assert torch.equal(*answers), (rows, out, columns)


@needs_native
def test_callers_at_once_get_their_own_answers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    cases = [case(40, 300, 700, 1, 2, seed) for seed in range(4)]
    packed = [lowbit.pack(codes, 2) for _, codes, _, _ in cases]
    wrong: list[int] = []

    def call(index: int) -> None:
        x, codes, scale, bias = cases[index]
        exact = F.linear(x.double(), dense64(codes, scale), bias.double())
        for _ in range(20):
            if error(lowbit_ops.lowbit_linear(x, packed[index], scale, bias, 2, 700), exact) > 1e-4:
                wrong.append(index)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(before)
    assert not wrong


def in_child(queue: "multiprocessing.Queue[float]") -> None:
    x, codes, scale, bias = case(64, 512, 1500, 1, 2)
    y = lowbit_ops.lowbit_linear(x, lowbit.pack(codes, 2), scale, bias, 2, 1500)
    queue.put(error(y, F.linear(x.double(), dense64(codes, scale), bias.double())))


@needs_native
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12; what is being tested
def test_works_after_a_fork() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    x, codes, scale, bias = case(64, 512, 1500, 1, 2)
    lowbit_ops.lowbit_linear(x, lowbit.pack(codes, 2), scale, bias, 2, 1500)
    torch.set_num_threads(1)  # torch's own pool does not survive a fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) <= 1e-4
    child.join()
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": torch.zeros(3, 41)}, ValueError, r"must be 40, found shape \(3, 41\)"),
        ({"x": torch.tensor(1.0)}, ValueError, r"must be 40, found shape \(\)"),
        ({"x": torch.zeros(3, 40, dtype=torch.int32)}, TypeError, "x must be floating, found torch.int32"),
        ({"packed": torch.zeros(1, 10, 64)}, TypeError, "must be uint8, found torch.float32"),
        ({"packed": torch.zeros(1, 9, 64, dtype=torch.uint8)}, ValueError, r"\(1, 10, 64\), found \(1, 9, 64\)"),
        ({"packed": torch.zeros(0, dtype=torch.uint8)}, ValueError, r"found \(0,\)"),
        ({"scale": torch.ones(20)}, ValueError, r"found \(20,\)"),
        ({"scale": torch.ones(1, 20).half()}, TypeError, "float32, found torch.float16"),
        ({"scale": torch.ones(41, 20)}, ValueError, "1 to 40 groups, found 41"),
        ({"scale": torch.ones(1, 0)}, ValueError, "found 0 and 40"),
        ({"bias": torch.ones(19)}, ValueError, r"shape \(20,\), found \(19,\)"),
        ({"bias": torch.ones(20, dtype=torch.bool)}, TypeError, "found torch.bool"),
        ({"bits": 3}, ValueError, "2 or 4 bits, found 3"),
        ({"in_features": -40}, ValueError, "found 20 and -40"),
        ({"in_features": 2**62}, ValueError, "4611686018427387904"),
        ({"mode": "fast"}, ValueError, "one of exact, accurate, int8, found 'fast'"),
        ({"zero": torch.zeros(1, 20)}, TypeError, "must be uint8, found torch.float32"),
        ({"zero": torch.zeros(20, 1, dtype=torch.uint8)}, ValueError, r"shape \(1, 20\), found \(20, 1\)"),
        ({"zero": torch.full((1, 20), 4, dtype=torch.uint8)}, ValueError, "bits"),
    ],
)
def test_wrong_arguments_are_refused(
    ops_on: tuple[Callable[..., Tensor], ...], change: dict[str, object], kind: type[Exception], message: str
) -> None:
    x, codes, scale, bias = case(3, 20, 40, 1, 2)
    arguments = {"x": x, "packed": lowbit.pack(codes, 2), "scale": scale, "bias": bias, "bits": 2, "in_features": 40}
    with pytest.raises(kind, match=message):
        ops_on[0](**{**arguments, "mode": "int8", "relu": False, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 5, 5)}, r"found \(3, 5, 5\)"),
        ({"x": torch.zeros(1, 7, 5, 5)}, r"found \(1, 9, 64\)"),
        ({"x": torch.zeros(1, 3, 1, 5)}, r"kernel of \(3, 3\) does not fit"),
        ({"kernel": [3]}, r"kernel must be two numbers from 1 on, found \(3,\)"),
        ({"stride": [0, 1]}, r"stride must be two numbers from 1 on, found \(0, 1\)"),
        ({"padding": [0, -1]}, r"padding must be two numbers from 0 on, found \(0, -1\)"),
        ({"dilation": [2**40, 1]}, "does not fit"),
        ({"scale": torch.ones(2, 8)}, "one scale group, found 2"),
        ({"mode": "fast"}, "one of exact, accurate, int8, found 'fast'"),
    ],
)
def test_wrong_convolutions_are_refused(
    ops_on: tuple[Callable[..., Tensor], ...], change: dict[str, object], message: str
) -> None:
    arguments = {
        "x": torch.zeros(1, 3, 5, 5),
        "packed": lowbit.pack_kernel(torch.zeros(8, 3, 3, 3, dtype=torch.int8), 2),
        "scale": torch.ones(1, 8),
        "bias": None,
        "bits": 2,
        "kernel": [3, 3],
        "stride": [1, 1],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 1,
    }
    with pytest.raises(ValueError, match=message):
        ops_on[1](**{**arguments, "mode": "int8", "relu": False, **change})


def test_wrong_codes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2-bit codes must be in \[-1, 1\], found values from 0 to 2"):
        lowbit.pack(torch.tensor([[0, 1, 2]], dtype=torch.int8), 2)
    with pytest.raises(ValueError, match="values from -8 to 1"):
        lowbit.pack(torch.tensor([[-8, 1]], dtype=torch.int8), 4)
    with pytest.raises(TypeError, match=r"int8 of 2 dimensions, found torch\.int64"):
        lowbit.pack(torch.tensor([[0, 1]]), 2)
    with pytest.raises(ValueError, match="1 to 2 groups, found 3"):
        lowbit.pack(torch.zeros(1, 2, dtype=torch.int8), 2, 3)
    packed = lowbit.pack(torch.zeros(3, 5, dtype=torch.int8), 2)
    packed[0, 1, 0] = 0b11
    with pytest.raises(ValueError, match="1 of 15 packed codes"):
        lowbit.unpack(packed, 2, 3, 5)


@needs_native
def test_native_functions_check_their_numbers() -> None:
    linear, convolution = backend.native.integer_linear, backend.native.integer_convolution
    good = [64, 3, 64, 64, 0, 0, 2, 1, 20, 40, 1, False, 64, 1]
    for place, value, message in [
        (0, 0, "address of x = 0"),
        (0, 65, "address of x = 65"),
        (1, -1, "rows = -1"),
        (2, 0, "packed codes = 0"),
        (3, 66, "address of the scale = 66"),
        (4, 1, "address of the bias = 1"),
        (6, 3, "bits = 3"),
        (7, 41, "groups = 41"),
        (8, 0, "out_features = 0"),
        (9, -4, "in_features = -4"),
        (9, 2**62, "too large = 4611686018427387904"),
        (1, 2**42, "too large = "),
        (10, 3, "planes = 3"),
        (12, 0, "address of y = 0"),
        (13, 0, "threads = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear(*good[:place], value, *good[place + 1 :])
    window = (3, 3, 1, 1, 0, 0, 1, 1)
    for shape, view, message in [
        ((1, 5, 5), window, "entries = 3"),
        ((1, 5, 5, 0), window, "out of range = 0"),
        ((2**40, 5, 5, 3), window, "out of range = 1099511627776"),
        ((1, 5, 2, 3), window, "wider than x; width = 2"),
        ((2**20, 2**20, 2**20, 3), window, "x is too large"),
        ((1, 5, 5, 3), (3, 3, 0, 1, 0, 0, 1, 1), "out of range = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            convolution(64, shape, view, 1, 64, 64, 0, 2, 20, 1, False, 64, 1)


def test_opcheck() -> None:
    x, codes, scale, bias = case(5, 20, 40, 2, 4)
    packed = lowbit.pack(codes, 4, 2)
    arguments = (x.requires_grad_(), packed, scale, bias.requires_grad_(), 4, 40, "accurate", True)
    torch.library.opcheck(torch.ops.robustq.lowbit_linear, arguments)
    kernel = lowbit.pack_kernel(codes[:8, :27].reshape(8, 3, 3, 3).clamp(-1, 1), 2)
    image = torch.randn(2, 3, 6, 6, requires_grad=True)
    window = ([3, 3], [2, 1], [1, 0], [1, 1], 1)
    for mode in ("exact", "int8"):
        arguments = (image, kernel, scale[:1, :8], bias[:8].detach().requires_grad_(), 2, *window, mode, True)
        torch.library.opcheck(torch.ops.robustq.lowbit_conv2d, arguments)


@pytest.mark.parametrize("relu", [False, True])
def test_gradients_are_those_of_the_dequantized_layer(relu: bool) -> None:
    x, codes, scale, bias = case(33, 70, 90, 2, 4)
    leaves = [(x.clone().requires_grad_(), bias.clone().requires_grad_()) for _ in range(2)]
    packed = lowbit.pack(codes, 4, 2)
    weights = torch.randn(33, 70, generator=torch.Generator().manual_seed(2))
    y = lowbit_ops.lowbit_linear(leaves[0][0], packed, scale, leaves[0][1], 4, 90, "accurate", relu)
    twin = F.linear(leaves[1][0], dense64(codes, scale).float(), leaves[1][1])
    (y * weights).sum().backward()
    ((twin * (y > 0) if relu else twin) * weights).sum().backward()
    for ours, theirs in zip(*leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert error(ours.grad, theirs.grad.double()) <= 1e-5


@pytest.mark.parametrize(("mode", "bits"), [("exact", 4), ("int8", 2)])
@pytest.mark.parametrize("window", [*WINDOWS[:3], WINDOWS[-2]])
def test_gradients_of_a_convolution(window: Any, mode: str, bits: int) -> None:
    shape, out, kernel, stride, padding, dilation, groups = window
    columns = shape[1] // groups * kernel[0] * kernel[1]
    codes = case(1, out, columns, 1, bits)[1].view(out, shape[1] // groups, *kernel)
    scale = torch.rand(1, out) + 0.5
    leaves = [(torch.ones(shape).requires_grad_(), torch.zeros(out).requires_grad_()) for _ in range(2)]
    arguments = (bits, list(kernel), list(stride), list(padding), list(dilation), groups, mode)
    y = lowbit_ops.lowbit_conv2d(leaves[0][0], lowbit.pack_kernel(codes, bits), scale, leaves[0][1], *arguments)
    weight = codes.float() * scale.view(-1, 1, 1, 1)
    twin = F.conv2d(leaves[1][0], weight, leaves[1][1], stride, padding, dilation, groups)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    (y * weights).sum().backward()
    (twin * weights).sum().backward()
    for ours, theirs in zip(*leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert error(ours.grad, theirs.grad.double()) <= 1e-5


def test_compiles_and_exports() -> None:
    x, codes, scale, bias = case(6, 20, 40, 2, 4)
    packed = lowbit.pack(codes, 4, 2)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return lowbit_ops.lowbit_linear(F.relu(x), packed, scale, bias, 4, 40, "int8")

    wanted = Layer()(x)
    assert torch.equal(torch.compile(Layer(), fullgraph=True, backend="aot_eager")(x), wanted)
    assert torch.equal(torch.export.export(Layer(), (x,)).module()(x), wanted)
