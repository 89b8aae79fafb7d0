"""hopper.cu on the emulated machine: against its specification, with warps left behind, with mistakes put in."""

from typing import Any

import pytest
import torch
from torch import Tensor

from robustq.kernels import lowbit, reference
from robustq.kernels.cuda.layout import Fragments, fragments
from robustq.kernels.cuda.products import Epilogue, Gpu, linear

HIGHEST = {2: 1, 4: 7}
CLOSE = 1e-6  # of the largest output
# bits, mode, samples, outputs, columns, groups, processors
CASES = [
    (2, "int8", 130, 300, 700, 1, 3),
    (4, "accurate", 70, 140, 767, 3, 1),
    pytest.param(4, "int8", 33, 20, 128, 1, 132, marks=pytest.mark.slow),
    pytest.param(2, "accurate", 129, 270, 1300, 1, 2, marks=pytest.mark.slow),
    pytest.param(2, "int8", 140, 200, 512, 2, 1, marks=pytest.mark.slow),
    pytest.param(4, "int8", 2100, 16, 128, 1, 5, marks=pytest.mark.slow),  # more than a band of samples
]


def specialised(processors: int) -> Gpu:
    return Gpu(wgmma=True, specialised=True, processors=processors)


def drawn(bits: int, samples: int, outputs: int, columns: int, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(samples)
    codes = torch.randint(-HIGHEST[bits], HIGHEST[bits] + 1, (outputs, columns), dtype=torch.int8)
    return codes, torch.rand(groups, outputs) + 0.1, torch.randn(outputs), torch.randn(samples, columns)


@pytest.mark.parametrize(("bits", "mode", "samples", "outputs", "columns", "groups", "processors"), CASES)
def test_it_equals_its_specification(
    emulate: Any, bits: int, mode: str, samples: int, outputs: int, columns: int, groups: int, processors: int
) -> None:
    codes, scale, bias, x = drawn(bits, samples, outputs, columns, groups)
    dense = codes.double() * reference.spread(scale.T, *codes.shape).double()
    wanted = (lowbit.rounded(x, mode, (-1,)).double() @ dense.T + bias.double()).relu()
    epilogue, weight = Epilogue(bias=bias, relu=True), fragments(codes, scale, bits)
    y = linear(x, weight, mode, emulate, epilogue, specialised(processors))
    assert float((y - wanted).abs().max() / wanted.abs().max()) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-3), (torch.bfloat16, 5e-3)])
def test_half_precision_and_a_sample_of_nan(emulate: Any, dtype: torch.dtype, bound: float) -> None:
    codes, scale, _, x = drawn(2, 40, 20, 300, 1)
    x = x.to(dtype)
    x[7, 3] = torch.inf
    y = linear(x, fragments(codes, scale, 2), "accurate", emulate, gpu=specialised(2))
    whole = torch.arange(40) != 7
    wanted = lowbit.rounded(x[whole].float(), "accurate", (-1,)).double() @ (codes * scale.T).double().T
    assert y.dtype == dtype
    assert bool(y[7].isnan().all())
    assert float((y[whole].double() - wanted).abs().max() / wanted.abs().max()) < bound


def long_layer() -> tuple[Tensor, Fragments]:
    """More stages than the ring has, and two tiles for one block."""
    codes, scale, _, x = drawn(2, 40, 270, 700, 1)
    return x, fragments(codes, scale, 2)


@pytest.mark.parametrize(
    "schedule", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_warps_that_lag_behind_change_nothing(emulate: Any, schedule: int) -> None:
    x, weight = long_layer()
    together = linear(x, weight, "int8", emulate, gpu=specialised(1))
    assert torch.equal(linear(x, weight, "int8", emulate.scheduled(schedule), gpu=specialised(1)), together)


FULL, EMPTY = "barrier_wait(ring.full + s, step / STAGES % 2);", "barrier_wait(ring.empty + s, step / STAGES % 2 ^ 1);"
DONE, BACK = "wait_products<BLOCKS - 1>();", "if (b == BLOCKS - 1 && tile && lane == 0)"
# What is edited in the kernel, and what the machine says to it.
MISTAKES = {
    "a stage is read before it has come": ([(FULL, "")], "reads shared memory that a copy is still writing"),
    "the wrong phase of a full stage": ([(FULL, FULL.replace("2)", "2 ^ 1)"))], "still writing"),
    "one warp waits for all": ([(FULL, f"if (threadIdx.x < 160) {FULL}")], "has not waited for|still writing"),
    "a stage is filled while it is in use": ([(EMPTY, "")], "still writing|still reads|two copies"),
    "the wrong phase of an empty stage": ([(" ^ 1);", ");")], "never comes: a barrier"),
    "a stage is given back before its products are done": ([(BACK, BACK.replace("BLOCKS - 1", "0"))], "still reads"),
    "a stage is never given back": ([(BACK, "if (false)")], "never comes: a barrier"),
    "one warp gives a stage back for four": (
        [("4 * GROUPS", "GROUPS"), ("lane == 0) barrier_arrive", "threadIdx.x % 128 == 0) barrier_arrive")],
        "still reads",
    ),
    "every thread gives a stage back": (
        [("lane == 0) barrier_arrive", "true) barrier_arrive")],
        "more arrivals|still|never",
    ),
    "fewer bytes are expected": ([("blocks * WEIGHT_BYTES)", "0)")], "more bytes come|still writing"),
    "more bytes are expected": ([("blocks * WEIGHT_BYTES)", "WEIGHT_BYTES * 32)")], "never comes: a barrier"),
    "products are not waited for": ([(DONE, "")], "operands were written|still reads"),
    "one group of products too many": ([(DONE, "wait_products<BLOCKS>();")], "operands were written"),
    "sums are read too early": (
        [("    wait_products<0>();\n    if (lane", "    if (lane")],
        "still reads|block ended|sums",
    ),
    "registers are not ready": ([("begin_products();", "")], "begin_products"),
    "the copies do not know the barriers": ([("publish_shared();", "")], "publish_shared"),
    "barriers are used before they are there": ([("  synchronize();", "")], "no barrier|before all know"),
    "weights of the wrong outputs": ([("(at.block + lane) *", "(at.block + lane + 1) *")], "leaves the tensors"),
    "shared memory is too small": (
        [("STAGES * STAGE_BYTES)", "STAGES * STAGE_BYTES + 64)")],
        "leaves the shared memory",
    ),
    "more registers than there are": ([("raise_registers<232>", "raise_registers<240>")], "what never comes"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 7 > 0)) for i, n in enumerate(MISTAKES)]
)
def test_a_mistake_does_not_go_unnoticed(emulate: Any, name: str) -> None:
    edits, message = MISTAKES[name]
    codes, scale, _, x = drawn(2, 33, 20, 1400, 1)
    weight = fragments(codes, scale, 2)

    def run() -> None:
        for schedule in range(8):
            linear(x, weight, "int8", emulate.edited("hopper.cu", *edits).scheduled(schedule), gpu=specialised(1))

    with pytest.raises(RuntimeError, match=message):
        run()
