"""The kernels' own text on an emulated machine against the specification in lowbit.py, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import lowbit, reference
from robustq.kernels.cuda.layout import Fragments, fragments
from robustq.kernels.cuda.products import Epilogue, Gpu, Launch, Launcher, Window, convolution, linear

HIGHEST = {2: 1, 4: 7}
CLOSE = 1e-6  # of the largest output: the products are exact, what is left is the rounding of float32
PLAIN: dict[str, Any] = {}
# bits, mode, samples, outputs, columns, groups, storage, wgmma
QUICK = [
    (2, "accurate", 3, 33, 1500, 1, PLAIN, False),
    (2, "bf16", 3, 20, 300, 1, PLAIN, False),
    (4, "accurate", 5, 50, 384, 3, PLAIN, False),
    (2, "accurate", 3, 40, 700, 1, {"bitmap": True, "listed": True}, False),
    (2, "accurate", 40, 20, 300, 1, PLAIN, True),
    (4, "int8", 70, 140, 512, 4, PLAIN, False),
]
SLOW = [
    (2, "int8", 9, 40, 300, 1, PLAIN, False),
    (2, "int8", 1, 16, 128, 1, PLAIN, False),
    (2, "accurate", 30, 20, 256, 2, PLAIN, False),
    (2, "bf16", 20, 20, 1300, 1, PLAIN, False),
    (4, "int8", 17, 50, 260, 1, PLAIN, False),
    (2, "int8", 3, 40, 1400, 1, {"listed": True}, False),
    (2, "int8", 11, 40, 700, 1, {"bitmap": True}, False),
    (2, "int8", 130, 20, 700, 1, PLAIN, True),
    (2, "accurate", 130, 20, 700, 1, PLAIN, False),
    (4, "int8", 40, 140, 512, 4, PLAIN, True),
    (2, "accurate", 70, 20, 512, 2, PLAIN, True),
]


def drawn_codes(shape: tuple[int, ...], bits: int, sparse: bool) -> Tensor:
    codes = torch.randint(-HIGHEST[bits], HIGHEST[bits] + 1, shape, dtype=torch.int8)
    if sparse:
        codes[torch.rand(shape) < 0.9] = 0
        codes[:16, :256] = 0  # whole tiles
    return codes


def expected(x: Tensor, codes: Tensor, scale: Tensor, mode: str, bias: Tensor) -> Tensor:
    weight = codes.double() * reference.spread(scale.T, *codes.shape).double()
    values = x.bfloat16() if mode == "bf16" else lowbit.rounded(x, mode, (-1,))
    return (values.double() @ weight.T + bias.double()).relu()


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)], ids=str)
def test_a_linear_layer_equals_its_specification(
    emulate: Launcher, case: tuple[int, str, int, int, int, int, dict[str, Any], bool]
) -> None:
    bits, mode, samples, outputs, columns, groups, storage, wgmma = case
    torch.manual_seed(samples)
    codes = drawn_codes((outputs, columns), bits, bool(storage))
    scale, bias, x = torch.rand(groups, outputs) + 0.1, torch.randn(outputs), torch.randn(samples, columns)
    weight = fragments(codes, scale, bits, **storage)
    y = linear(x, weight, mode, emulate, Epilogue(bias=bias, relu=True), Gpu(wgmma=wgmma))
    assert error(y, expected(x, codes, scale, mode, bias)) < CLOSE


CONVOLUTIONS = [
    (2, "int8", (2, 3, 9, 7), 20, Window((3, 3), (1, 1), (1, 1), (1, 1)), True),
    (4, "accurate", (1, 20, 8, 8), 10, Window((3, 2), (2, 1), (0, 1), (1, 2)), False),
    pytest.param(2, "int8", (2, 16, 6, 6), 150, Window((1, 1), (2, 2), (0, 0), (1, 1)), True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("bits", "mode", "shape", "outputs", "window", "wgmma"), CONVOLUTIONS)
def test_a_convolution_with_a_residual_equals_its_specification(
    emulate: Launcher, bits: int, mode: str, shape: tuple[int, ...], outputs: int, window: Window, wgmma: bool
) -> None:
    torch.manual_seed(1)
    channels = shape[1]
    codes = drawn_codes((outputs, channels, *window.kernel), bits, False)
    scale, bias, x = torch.rand(1, outputs) + 0.1, torch.randn(outputs), torch.randn(shape)
    flat = F.pad(codes.permute(0, 2, 3, 1), (0, -channels % 16)).reshape(outputs, -1)
    values, dense = lowbit.rounded(x, mode, (1, 2, 3)).double(), (codes * scale.view(-1, 1, 1, 1)).double()
    wanted = F.conv2d(values, dense, bias.double(), window.stride, window.padding, window.dilation)
    residual = torch.randn(wanted.shape).contiguous(memory_format=torch.channels_last)
    wanted = (wanted + residual).relu()
    largest = torch.zeros(shape[0], dtype=torch.int32)
    epilogue = Epilogue(bias=bias, residual=residual, relu=True, largest=largest)
    y = convolution(x, fragments(flat, scale, bits), window, mode, emulate, epilogue, Gpu(wgmma=wgmma))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, wanted) < CLOSE
    assert torch.equal(largest.view(torch.float32), y.abs().amax((1, 2, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_known_largest_value_is_taken_for_the_one_there_is(emulate: Launcher, layout: torch.memory_format) -> None:
    torch.manual_seed(3)
    codes, scale = drawn_codes((20, 48), 2, False), torch.rand(1, 20)
    x = torch.randn(2, 40, 12, 11).contiguous(memory_format=layout)
    launched: list[tuple[int, int]] = []

    def launch(what: Launch, device: torch.device) -> None:
        launched.append(what.grid)
        emulate(what, device)

    layer = (x, fragments(codes, scale, 2), Window((1, 1), (1, 1), (0, 0), (1, 1)), "int8", launch)
    largest = x.abs().amax((1, 2, 3))
    y, same = convolution(*layer), convolution(*layer, known=largest.view(torch.int32))
    assert torch.equal(same, y)
    assert [grid for grid in launched if grid[0] == 2] == [(2, 1), (2, 7)]  # more blocks share an image
    coarser = convolution(*layer, known=(4 * largest).view(torch.int32))
    values = torch.round(x * (127 / (4 * largest.view(-1, 1, 1, 1)))) * (4 * largest.view(-1, 1, 1, 1) / 127)
    wanted = F.conv2d(values.double(), (codes[:, :40] * scale.T).double()[:, :, None, None])
    assert error(coarser, wanted) < CLOSE


def one_layer() -> tuple[Tensor, Tensor, Fragments]:
    torch.manual_seed(2)
    codes, scale = drawn_codes((40, 300), 2, False), torch.rand(1, 40)
    return codes, scale, fragments(codes, scale, 2)


def test_a_sample_that_is_not_finite_gives_nan_and_leaves_the_others_alone(emulate: Launcher) -> None:
    codes, scale, weight = one_layer()
    x = torch.randn(9, 300)
    x[1, 7], x[2, 9], x[3], x[4] = float("nan"), float("-inf"), 0.0, 0.9 * lowbit.SMALLEST
    y = linear(x, weight, "int8", emulate)
    assert y[1].isnan().all()
    assert y[2].isnan().all()
    assert torch.equal(y[3:5], torch.zeros(2, 40))
    whole = torch.tensor([0, 5, 6, 7, 8])
    wanted = lowbit.rounded(x[whole], "int8", (-1,)).double() @ (codes * scale.T).double().T
    assert error(y[whole], wanted) < CLOSE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.slow
def test_half_precision_comes_in_and_goes_out(emulate: Launcher, dtype: torch.dtype) -> None:
    codes, scale, weight = one_layer()
    x = torch.randn(9, 300, dtype=dtype)
    y = linear(x, weight, "int8", emulate)
    wanted = lowbit.rounded(x.float(), "int8", (-1,)) @ (codes * scale.T).T
    assert y.dtype == dtype
    assert error(y, wanted.double()) < (1e-3 if dtype == torch.float16 else 5e-3)


def test_no_samples_launch_nothing() -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a kernel was launched")

    _, _, weight = one_layer()
    assert linear(torch.empty(0, 300), weight, "int8", forbidden).shape == (0, 40)


def test_a_bitmap_refuses_bfloat16(emulate: Launcher) -> None:
    weight = fragments(drawn_codes((16, 128), 2, True), torch.ones(1, 16), 2, bitmap=True)
    with pytest.raises(ValueError, match="no products in bfloat16"):
        linear(torch.randn(2, 128), weight, "bf16", emulate)


def test_sparse_weights_refuse_a_residual(emulate: Launcher) -> None:
    codes = drawn_codes((16, 128), 2, True)
    weight = fragments(codes, torch.ones(1, 16), 2, bitmap=True)
    with pytest.raises(ValueError, match="no fused residual"):
        linear(torch.randn(2, 128), weight, "int8", emulate, Epilogue(residual=torch.zeros(2, 16)))


# What is edited in gemm.cu, with wgmma or without; the machine says so, or the outputs are wrong.
MISTAKES = {
    "copies are not published": (True, "publish_shared();", "", "publish_shared"),
    "products are not waited for": (True, "finish_products();", "commit_products();", "still|block ended|written"),
    "registers are not ready": (True, "begin_products();", "", "begin_products"),
    "copies of others are not waited for": (False, "    synchronize();", "", "wrong"),
    "one group of copies too many": (False, "wait_copies<STAGES - 2>", "wait_copies<STAGES - 1>", "wrong"),
    "a stage is filled while it is in use": (False, "ahead % STAGES *", "(ahead + 1) % STAGES *", "wrong"),
    "a row past the last": (False, "if (row >= rows) return 0;", "", "leaves the tensors"),
    "weights past the last": (False, "if (tile + 1 < tiles) next", "next", "leaves the tensors"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, n in enumerate(MISTAKES)]
)
def test_a_mistake_in_the_kernel_does_not_go_unnoticed(emulate: Any, name: str) -> None:
    wgmma, old, new, message = MISTAKES[name]
    torch.manual_seed(5)
    codes, scale, x = drawn_codes((20, 700), 2, False), torch.rand(1, 20) + 0.1, torch.randn(33, 700)
    wanted = expected(x, codes, scale, "int8", torch.zeros(20))

    def run() -> None:
        edited = emulate.edited("gemm.cu", (old, new))
        y = linear(x, fragments(codes, scale, 2), "int8", edited, Epilogue(relu=True), Gpu(wgmma=wgmma))
        if not error(y, wanted) < CLOSE:
            raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match=message):
        run()
