"""The op on whole programs: against its meaning in plain torch and against float64, on every instruction set."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, lowbit, lowbit_network, network
from robustq.kernels.network import Add, Convolve, Pick, Pool, Relu, Step

ISAS = list(backend.native.available()) if backend.native else []
needs_native = pytest.mark.skipif(not ISAS, reason="the native module is not built")


@pytest.fixture(params=ISAS or ["reference"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if not ISAS:
        yield "reference"
        return
    before = backend.native.isa()
    backend.native.use(request.param)
    yield request.param
    backend.native.use(before)


class Made:
    """A program under construction, with its codes and factors."""

    def __init__(self, seed: int, inputs: int = 1) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.inputs, self.slots = inputs, inputs
        self.steps: list[Step] = []
        self.codes: list[Tensor] = []
        self.factors: list[Tensor] = []
        self.kernels: list[Tensor] = []

    def convolve(
        self,
        source: int,
        channels: int,
        out: int,
        residual: int = -1,
        bits: int = 2,
        target: int | None = None,
        **sizes: Any,
    ) -> int:
        values = {
            "kernel": (3, 3),
            "stride": (1, 1),
            "pad": (1, 1),
            "dilation": (1, 1),
            "groups": 1,
            "relu": 1,
            **sizes,
        }
        highest = lowbit.HIGHEST[bits]
        shape = (out, channels // values["groups"], *values["kernel"])
        kernel = torch.randint(-highest, highest + 1, shape, generator=self.rng).to(torch.int8)
        scale = (torch.rand(out, generator=self.rng) + 0.5) / (kernel[0].numel() ** 0.5 * highest)
        scale[::3] *= -1  # as a folded batch norm may have it
        pairs = [n for name in ("kernel", "stride", "pad", "dilation") for n in values[name]]
        made = self.slot(target)
        starts = sum(map(len, self.codes)), sum(map(len, self.factors))
        fields = [source, residual, made, bits, out, *pairs, values["groups"], values["relu"], *starts]
        self.steps.append(Convolve._make(fields))
        self.codes.append(lowbit.pack_kernel(kernel, bits).flatten())
        self.factors += [scale, torch.randn(out, generator=self.rng) / 2]
        self.kernels.append(kernel * scale.view(-1, 1, 1, 1))
        return made

    def slot(self, target: int | None = None) -> int:
        if target is not None:
            return target
        self.slots += 1
        return self.slots - 1

    def add(self, step: type[Step], *fields: int) -> int:
        """A step whose target, the field after those that are read, is a new slot."""
        reads = 2 if step is Add else 1
        self.steps.append(step._make([*fields[:reads], self.slot(), *fields[reads:]]))
        return self.slots - 1

    def arguments(self, mode: str) -> tuple[Tensor, Tensor, str, str]:
        text = network.write(self.inputs, self.slots, self.steps)
        empty = [torch.zeros(1, dtype=torch.uint8)], [torch.zeros(1)]
        return torch.cat(self.codes or empty[0]), torch.cat(self.factors or empty[1]), text, mode


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def far(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact.double()).abs().max() / exact.double().abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(
    ("shape", "out", "sizes"),
    [
        ((3, 16, 9, 8), 16, {}),
        ((2, 16, 8, 8), 32, {"stride": (2, 2)}),
        ((1, 5, 7, 6), 70, {"kernel": (5, 2), "pad": (2, 0), "dilation": (1, 2)}),
        ((5, 64, 2, 2), 40, {}),
        ((2, 9, 5, 5), 33, {"kernel": (1, 1), "pad": (0, 0)}),
        ((2, 24, 6, 6), 24, {"groups": 24}),
        ((1, 6, 9, 10), 6, {"kernel": (9, 9), "pad": (4, 4), "groups": 6}),  # at 4 bits beyond exact sums of float32
        ((2, 12, 7, 5), 18, {"groups": 6, "stride": (1, 2)}),
        ((1, 1, 1, 1), 1, {"kernel": (1, 1), "pad": (0, 0)}),
        ((2, 4, 1, 3), 3, {"kernel": (1, 1), "pad": (3, 4)}),  # padding wider than the image
    ],
)
def test_a_fused_convolution_agrees_with_float64(
    isa: str, shape: tuple[int, ...], out: int, sizes: dict[str, Any], bits: int, mode: str
) -> None:
    made = Made(1, inputs=2)
    made.convolve(0, shape[1], out, residual=1, bits=bits, **sizes)
    x, step = images(*shape), made.steps[0]
    assert isinstance(step, Convolve)
    exact = F.conv2d(x.double(), made.kernels[0].double(), made.factors[1].double(), *step.window[1:])
    residual = images(*exact.shape, seed=2)
    exact = (exact + residual).relu()
    y = lowbit_network([x, residual], *made.arguments(mode))
    assert y.shape == exact.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    bound = {"exact": 1e-6, "accurate": 1e-4, "int8": 2.5e-2}[mode]
    assert float((y - exact).abs().max()) <= bound * float(exact.abs().max() + 1)
    # Images are rounded one by one. Of float32, few positions are summed in another order; torch sums so in all modes.
    for n in range(shape[0]):
        alone = lowbit_network([x[n : n + 1], residual[n : n + 1]], *made.arguments(mode))
        assert torch.equal(alone, y[n : n + 1]) if ISAS and mode != "exact" else far(alone, y[n : n + 1]) <= 1e-6


def residual_chain(seed: int, width: int = 16) -> Made:
    """Two blocks, one with a shortcut without parameters, then pooling: slots are used again."""
    made = Made(seed)
    first = made.add(Relu, 0)
    inner = made.convolve(first, width, width)
    block = made.convolve(inner, width, width, residual=first)
    halved = made.convolve(block, width, 2 * width, stride=(2, 2), target=inner)
    shortcut = made.add(Pick, block, 2, 2, width // 2, width // 2)
    joined = made.convolve(halved, 2 * width, 2 * width, residual=shortcut, target=first)
    made.add(Pool, joined, 3, 3, 2, 2, 1, 1, 1)
    return made


@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
def test_a_chain_is_its_steps(isa: str, mode: str) -> None:
    made, x = residual_chain(3), images(5, 16, 11, 10)
    steps = network.run([x], *made.arguments(mode))
    assert far(lowbit_network([x], *made.arguments(mode)), steps) <= 1e-6
    if mode == "exact":
        assert far(steps, network.run([x.double()], *made.arguments(mode))) <= 2e-6


@needs_native
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.data())
def test_any_program_is_its_steps(batch: int, height: int, width: int, channels: int, data: st.DataObject) -> None:
    made = Made(data.draw(st.integers(0, 99)))
    size: network.Size = (channels, height, width)
    sizes: dict[int, network.Size] = {0: size}
    at = 0
    for kind in data.draw(
        st.lists(st.sampled_from(["convolve", "add", "relu", "pool", "pick"]), min_size=1, max_size=5)
    ):
        alike = [slot for slot, other in sizes.items() if other == sizes[at]]
        small, pads = st.integers(1, 3), data.draw(st.integers(0, 1))
        if kind == "convolve":
            kernel = (
                data.draw(st.integers(1, sizes[at][1] + 2 * pads)),
                data.draw(st.integers(1, sizes[at][2] + 2 * pads)),
            )
            options = {
                "kernel": tuple(min(n, 3) for n in kernel),
                "pad": (pads, pads),
                "stride": (data.draw(small),) * 2,
            }
            depthwise = data.draw(st.booleans())
            out = sizes[at][0] if depthwise else data.draw(st.integers(1, 70))
            groups = sizes[at][0] if depthwise else 1
            at = made.convolve(at, sizes[at][0], out, bits=data.draw(st.sampled_from([2, 4])), groups=groups, **options)
        elif kind == "add":
            at = made.add(Add, at, data.draw(st.sampled_from(alike)), data.draw(st.integers(0, 1)))
        elif kind == "relu":
            at = made.add(Relu, at)
        elif kind == "pool":
            least = min(sizes[at][1:])
            kernel_size = data.draw(st.integers(1, min(3, least)))
            pad = data.draw(st.integers(0, kernel_size // 2))
            at = made.add(Pool, at, *[kernel_size] * 2, *[data.draw(small)] * 2, pad, pad, data.draw(st.integers(0, 1)))
        else:
            at = made.add(Pick, at, data.draw(small), data.draw(small), data.draw(st.integers(0, 2)), pads)
        step = made.steps[-1]
        sizes[at] = step.size(sizes[step.source])
    x = images(batch, channels, height, width)
    mode = data.draw(st.sampled_from(["exact", "accurate", "int8"]))
    y, wanted = lowbit_network([x], *made.arguments(mode)), network.run([x], *made.arguments(mode))
    assert tuple(y.shape) == (batch, *sizes[at]) == tuple(wanted.shape)
    if mode == "exact":
        wanted = network.run([x.double()], *made.arguments(mode))
        assert float((y - wanted).abs().max()) <= 2e-6 * (1 + float(wanted.abs().max()))
    else:
        assert far(y, wanted) <= 1e-6


@needs_native
@pytest.mark.parametrize("mode", ["exact", "accurate"])
def test_light_and_heavy_layers_share_a_chain(mode: str) -> None:
    """Segments take different numbers of images at once; values pass from one to another."""
    made = Made(5)
    light = made.convolve(0, 24, 256, stride=(2, 2))
    pooled = made.add(Pool, light, 2, 2, 2, 2, 0, 0, 0)
    heavy = made.convolve(pooled, 256, 128)
    again = made.convolve(heavy, 128, 16, target=light)
    made.convolve(again, 16, 16, residual=again, target=pooled)
    x = images(7, 24, 48, 40)
    arguments, answers = made.arguments(mode), []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        answers.append(lowbit_network([x], *arguments))
    torch.set_num_threads(before)
    assert torch.equal(*answers)
    assert far(answers[0], network.run([x], *arguments)) <= 5e-6


def test_other_inputs() -> None:
    made, x = residual_chain(4), images(3, 16, 6, 7)
    arguments = made.arguments("accurate")
    wanted = lowbit_network([x], *arguments)
    strided = torch.stack([x, x], -1)[..., 0]
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(lowbit_network([strided], *arguments), wanted)
    assert torch.equal(lowbit_network([last], *arguments), wanted)
    assert lowbit_network([x[:0]], *arguments).shape == (0, *wanted.shape[1:])
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        y = lowbit_network([x.to(dtype)], *arguments)
        assert y.dtype == dtype
        assert far(y, lowbit_network([x.to(dtype).float()], *arguments)) <= torch.finfo(dtype).eps
    spoilt = x.clone()
    spoilt[1, 3, 2, 2] = float("nan")
    y = lowbit_network([spoilt], *arguments)
    assert y[1].isnan().any()
    assert torch.equal(y[::2], wanted[::2])


def test_the_exact_mode_spoils_only_what_a_window_sees(isa: str) -> None:
    """NaN and infinity go where torch's own convolution takes them: zeros among the codes meet them too."""
    for channels, groups in [(8, 1), (12, 12), (12, 2)]:
        made = Made(2)
        made.convolve(0, channels, 24, groups=groups, relu=0)
        x = images(2, channels, 7, 6)
        x[0, 3, 2, 2], x[1, 5, 4, 4] = float("nan"), float("inf")
        wanted = F.conv2d(x, made.kernels[0], made.factors[1], padding=1, groups=groups)
        y = lowbit_network([x], *made.arguments("exact"))
        assert torch.equal(y.isfinite(), wanted.isfinite())
        assert torch.allclose(y, wanted, 1e-5, 1e-5, equal_nan=True)


@pytest.mark.parametrize("factor", [1e-42, 1e-36, 1e-25, 1e-5, 1e15, 1e33])
def test_the_exact_mode_at_any_size(isa: str, factor: float) -> None:
    """Images of any magnitude, one of zeros, one with an outlier: float32 as torch has it."""
    made = Made(2)
    made.convolve(0, 20, 33, relu=0)
    made.factors[1].zero_()
    x = images(4, 20, 7, 6)
    x[1], x[2, 3, 3, 3] = 0, 3e4
    x = x * torch.tensor([factor, 1, factor, 1]).view(4, 1, 1, 1)
    wanted = F.conv2d(x.double(), made.kernels[0].double(), padding=1)
    y = lowbit_network([x], *made.arguments("exact"))
    for own, other in zip(y, wanted, strict=True):
        least = 1e-44 if ISAS else 1e-42  # the reference multiplies by the scale first, and each product is rounded
        assert float((own - other).abs().max()) <= 1e-6 * float(other.abs().max()) + least


def test_the_exact_mode_keeps_float64() -> None:
    made, x = residual_chain(4), images(3, 16, 6, 7).double()
    y = lowbit_network([x], *made.arguments("exact"))
    assert y.dtype == torch.float64
    assert 1e-9 < far(lowbit_network([x.float()], *made.arguments("exact")), y) < 1e-5
    leaf = x.clone().requires_grad_()
    lowbit_network([leaf], *made.arguments("exact")).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == torch.float64


@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
def test_gradients_are_those_of_the_steps(mode: str) -> None:
    made, arguments = residual_chain(6), residual_chain(6).arguments(mode)
    leaves = [images(2, 16, 6, 6).requires_grad_() for _ in range(2)]
    weights = images(*lowbit_network([leaves[0]], *made.arguments(mode)).shape, seed=9)
    (lowbit_network([leaves[0]], *arguments) * weights).sum().backward()
    (network.run([leaves[1]], *arguments) * weights).sum().backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is not None
    assert far(leaves[0].grad, leaves[1].grad) <= 1e-6


def test_gradient_of_one_convolution_is_that_of_the_dequantized_one() -> None:
    made = Made(7, inputs=2)
    made.convolve(0, 8, 12, residual=1, relu=0)
    x, residual = images(2, 8, 5, 5).requires_grad_(), images(2, 12, 5, 5).requires_grad_()
    weights = images(2, 12, 5, 5, seed=3)
    grads = torch.autograd.grad((lowbit_network([x, residual], *made.arguments("int8")) * weights).sum(), [x, residual])
    wanted = torch.autograd.grad((F.conv2d(x, made.kernels[0], padding=1) * weights).sum(), x)
    assert far(grads[0], wanted[0]) <= 1e-5
    assert torch.equal(grads[1], weights)


def test_opcheck() -> None:
    made = Made(8, inputs=2)
    made.convolve(0, 3, 4, residual=1)
    given = [images(2, 3, 5, 6).requires_grad_(), images(2, 4, 5, 6)]
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.robustq.lowbit_network, (given, *made.arguments("accurate")), test_utils=quick)
    plain = [x.detach() for x in given]  # dynamic shapes with gradients take many seconds; compiled ones are below
    torch.library.opcheck(
        torch.ops.robustq.lowbit_network,
        (plain, *made.arguments("accurate")),
        test_utils="test_aot_dispatch_dynamic",
    )


def test_compiles_and_exports() -> None:
    arguments = residual_chain(2).arguments("int8")

    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return lowbit_network([F.relu(x)], *arguments).mean((2, 3))

    x = images(2, 16, 6, 6)
    wanted = Net()(x)
    assert torch.equal(torch.compile(Net(), fullgraph=True, backend="aot_eager")(x), wanted)
    assert torch.equal(torch.export.export(Net(), (x,)).module()(x), wanted)
    leaves = [images(2, 16, 6, 6).requires_grad_() for _ in range(2)]
    torch.compile(Net(), fullgraph=True, backend="aot_eager")(leaves[0]).sum().backward()
    Net()(leaves[1]).sum().backward()
    assert leaves[0].grad is not None
    assert torch.equal(leaves[0].grad, leaves[1].grad)  # type: ignore[arg-type]


def test_text_of_a_program() -> None:
    steps = [Relu(0, 1), Pool(1, 2, 2, 2, 2, 2, 0, 0, 1)]
    text = network.write(1, 3, steps)
    assert text == "1 3 2 0 1 3 1 2 2 2 2 2 0 0 1"
    assert network.read(text) == network.Program(1, 3, tuple(steps))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "begins with its inputs and slots"),
        ("1 2", "no step"),
        ("1 2 7 0 1", "no step of kind 7"),
        ("1 2 2 0", "ends inside a step of kind Relu"),
        ("1 2 2 x 1", "invalid literal"),
        ("2 3 2 0 2", "2 inputs, found 1"),
        ("1 3 2 1 2", "slot 1 is read before it is written"),
        ("1 2 2 0 0", "slot 0 cannot be written"),
        ("1 2 2 0 2", "slot 2 cannot be written"),
        ("1 3 3 0 1 2 2 2 2 0 0 0 1 0 1 2 0", "added to slot 1, which holds"),
        ("1 2 3 0 1 9 9 1 1 0 0 0", "makes"),
    ],
)
def test_wrong_programs_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lowbit_network([torch.zeros(1, 2, 4, 4)], torch.zeros(1, dtype=torch.uint8), torch.zeros(1), text, "int8")


def test_wrong_tensors_are_refused() -> None:
    codes, factors, text, mode = residual_chain(1).arguments("int8")
    x = torch.zeros(1, 16, 4, 4)
    for arguments, error, message in [
        (([x], codes.int(), factors, text, mode), TypeError, "codes must be uint8"),
        (([x], codes, factors.double(), text, mode), TypeError, "factors must be float32"),
        (([x], codes, factors, text, "float"), ValueError, "found 'float'"),
        (([x[0]], codes, factors, text, mode), ValueError, r"inputs must be floating \(n, c, h, w\)"),
        (([x[:, :8]], codes, factors, text, mode), ValueError, "added to slot"),
    ]:
        with pytest.raises(error, match=message):
            lowbit_network(*arguments)


@needs_native
def test_the_native_network_checks_its_numbers() -> None:
    """Whatever a program says, nothing is read or written beyond what was given."""
    made = residual_chain(1)
    codes, factors, text, _ = made.arguments("int8")
    x, y = torch.zeros(1, 4, 4, 16), torch.zeros(4096)
    call = backend.native.integer_network
    good: list[Any] = [text, [(x.data_ptr(), 4, 4, 16)], 1, codes.data_ptr(), codes.numel()]
    good += [factors.data_ptr(), factors.numel(), 1, y.data_ptr(), 128, 1]
    call(*good)
    for place, value, message in [
        (0, "", "ends inside"),
        (0, "1 2", "no step"),
        (0, "1 2 9 0 1", "no such kind of step; kind = 9"),
        (0, "1 2 2 0 1x", "not a number"),
        (0, "2 3 2 0 2", "inputs that are not given|not given"),
        (0, "1 3 2 1 2", "read before it is written; slot = 1"),
        (0, "1 2 2 0 0", "slot = 0"),
        (0, "1 2 3 0 1 9 9 1 1 4 4 0", "does not fit; size = 4|size"),
        (0, "1 2 3 0 1 2 2 1 1 2 2 0", "padding = 2"),
        (1, [(0, 4, 4, 16)], "address of x = 0"),
        (1, [(x.data_ptr(), 4, 4)], "entries = 3"),
        (1, [(x.data_ptr(), 4, 4, 8)], "another size|groups|beyond"),
        (2, 0, "batch = 0|positive"),
        (3, 0, "packed codes = 0"),
        (4, codes.numel() - 1, "codes beyond their end"),
        (5, 2, "factors = 2"),
        (6, factors.numel() - 1, "factors beyond their end"),
        (7, 3, "planes = 3"),
        (8, 0, "address of y = 0"),
        (9, 31, "y has another size"),
        (10, 0, "threads = 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(*good[:place], value, *good[place + 1 :])
