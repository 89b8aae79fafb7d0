"""A fused chain by K4 and K5 on the emulated machine: against its meaning, and without passes for what is known."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robustq.kernels import lowbit, network
from robustq.kernels.cuda import chain
from robustq.kernels.cuda.network_ops import step_fragments
from robustq.kernels.cuda.products import Gpu, Launch
from robustq.kernels.network import Add, Convolve, Pick, Pool, Relu, Step

BOUNDS = {"accurate": 1e-4, "int8": 2.5e-2}  # a value at the edge of two levels may go to either


class Made:
    """A program of two blocks: convolutions with and without a residual, a shortcut, pooling, a grouped convolution."""

    def __init__(self, bits: int, grouped: bool) -> None:
        torch.manual_seed(4)
        self.bits, self.steps, self.codes, self.factors = bits, list[Step](), list[Tensor](), list[Tensor]()
        self.convolve(0, -1, 2, 3, 16, relu=1)
        self.convolve(2, -1, 3, 16, 16, relu=1)  # reads what a convolution has made
        self.convolve(3, 2, 4, 16, 16, relu=1)  # with a residual
        self.convolve(4, -1, 3, 16, 24, stride=2)
        self.steps.append(Pick(4, 2, 2, 2, 4, 4))
        self.steps.append(Add(3, 2, 3, 1))
        self.convolve(3, -1, 2, 24, 24, groups=24 if grouped else 1)  # reads a sum, whose largest value nobody took
        self.steps += [Relu(2, 2), Pool(2, 4, 3, 3, 2, 2, 1, 1, 0), Add(4, 1, 5, 0)]

    def convolve(
        self, source: int, residual: int, target: int, channels: int, out: int, stride: int = 1, relu: int = 0,
        groups: int = 1,
    ) -> None:  # fmt: skip
        highest = lowbit.HIGHEST[self.bits]
        kernel = torch.randint(-highest, highest + 1, (out, channels // groups, 3, 3), dtype=torch.int8)
        starts = sum(map(len, self.codes)), sum(map(len, self.factors))
        sizes = (3, 3, stride, stride, 1, 1, 1, 1)
        self.steps.append(Convolve(source, residual, target, self.bits, out, *sizes, groups, relu, *starts))
        self.codes.append(lowbit.pack_kernel(kernel, self.bits).flatten())
        self.factors += [(torch.rand(out) + 0.5) / (kernel[0].numel() ** 0.5 * highest), torch.randn(out) / 2]

    def arguments(self, mode: str) -> tuple[Tensor, Tensor, str, str]:
        return torch.cat(self.codes), torch.cat(self.factors), network.write(2, 6, self.steps), mode


CASES = [
    (2, "int8", torch.float32, True, False),
    pytest.param(4, "accurate", torch.float16, False, True, marks=pytest.mark.slow),
    pytest.param(2, "int8", torch.bfloat16, False, False, marks=pytest.mark.slow),
    pytest.param(2, "accurate", torch.float32, True, True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("bits", "mode", "dtype", "wgmma", "grouped"), CASES)
def test_a_chain_is_its_steps(
    emulate: Any, bits: int, mode: str, dtype: torch.dtype, wgmma: bool, grouped: bool
) -> None:
    arguments = Made(bits, grouped).arguments(mode)
    x, other = torch.randn(3, 3, 7, 6, dtype=dtype), torch.randn(3, 24, 2, 2, dtype=dtype)
    passes: list[Any] = []

    def launch(what: Launch, device: torch.device) -> None:
        if what.function == "quantize_images":
            passes.append(what.arguments[9])  # the largest magnitudes, where they are known
        emulate(what, device)

    y = chain.run([x, other], *arguments, step_fragments, launch, Gpu(wgmma=wgmma))
    wanted = network.run([x, other], *arguments)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    bound = BOUNDS[mode] + torch.finfo(dtype).eps
    assert float((y - wanted).abs().max()) <= bound * float(wanted.abs().max())
    known = [False, True, True, True] + [False] * (not grouped)
    assert [largest is not None for largest in passes] == known


def test_what_is_known_of_a_result_is_what_a_pass_would_find(emulate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = Made(2, False).arguments("int8")
    inputs = [torch.randn(2, 3, 7, 6), torch.randn(2, 24, 2, 2)]
    inputs[0][1, 0, 3, 3] = torch.nan  # an image of NaN: the others stay as they are
    y = chain.run(inputs, *arguments, step_fragments, emulate, Gpu())

    class Forgetful(chain.Chain):
        def __call__(self, *step: Any) -> Tensor:
            self.largest.clear()
            return super().__call__(*step)

    monkeypatch.setattr(chain, "Chain", Forgetful)
    again = chain.run(inputs, *arguments, step_fragments, emulate, Gpu())
    assert torch.equal(y[0], again[0])
    assert bool(y[1].isnan().any())
    assert not bool(y[0].isnan().any())


def test_weights_are_kept_until_they_change() -> None:
    made = Made(2, False)
    codes, factors, _, _ = made.arguments("int8")
    step = made.steps[0]
    assert isinstance(step, Convolve)
    first = step_fragments(step, codes, factors, 3)
    assert step_fragments(step, codes, factors, 3) is first
    factors += 1
    assert not torch.equal(step_fragments(step, codes, factors, 3).scale, first.scale)
