"""Zero points on the emulated machine: each kernel against (field - zero point) * scale in float64."""

from typing import Any

import pytest
import torch

from robustq.kernels import lowbit
from robustq.kernels.cuda.layout import fragments
from robustq.kernels.cuda.ops import lowbit_fragments
from robustq.kernels.cuda.products import Gpu, linear

CLOSE = 2e-6  # of the largest output: what a zero point takes away is rounded to float32 too
KERNELS = {"mma": Gpu(), "wgmma": Gpu(wgmma=True), "specialised": Gpu(wgmma=True, specialised=True, processors=2)}
# bits, mode, samples, outputs, columns, groups, kernel
CASES = [
    (4, "int8", 3, 20, 1151, 3, "mma"),  # shares of warps that are no whole groups
    (2, "int8", 40, 70, 256, 1, "specialised"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            (4, "accurate", 40, 20, 383, 3, "mma"),
            (2, "accurate", 10, 33, 300, 1, "mma"),
            (4, "int8", 130, 20, 512, 2, "wgmma"),
            (4, "accurate", 70, 140, 512, 4, "specialised"),
        ]
    ),
]


@pytest.mark.parametrize(("bits", "mode", "samples", "outputs", "columns", "groups", "kernel"), CASES)
def test_a_layer_with_zero_points_equals_its_specification(
    emulate: Any, bits: int, mode: str, samples: int, outputs: int, columns: int, groups: int, kernel: str
) -> None:
    torch.manual_seed(samples)
    fields = torch.randint(0, 2**bits, (outputs, columns), dtype=torch.uint8)
    zero = torch.randint(0, 2**bits, (groups, outputs), dtype=torch.uint8)
    scale, x = torch.rand(groups, outputs) + 0.1, torch.randn(samples, columns) + 0.5
    packed = lowbit.pack_fields(fields, bits, groups)
    dense = lowbit.dense(packed, scale, bits, columns, zero).double()
    wanted = lowbit.rounded(x, mode, (-1,)).double() @ dense.T
    weight = lowbit_fragments(packed, scale, bits, columns, None, zero)
    y = linear(x, weight, mode, emulate, gpu=KERNELS[kernel])
    assert float((y - wanted).abs().max() / wanted.abs().max()) < CLOSE


def test_what_has_no_zero_points_refuses_them(emulate: Any) -> None:
    codes, ones = torch.zeros(16, 128, dtype=torch.int8), torch.ones(1, 16)
    with pytest.raises(ValueError, match="sparse weights have no zero points"):
        fragments(codes, ones, 2, bitmap=True, zero=ones)
    with pytest.raises(ValueError, match="zero points have no products in bfloat16"):
        linear(torch.ones(1, 128), fragments(codes, ones, 2, zero=ones), "bf16", emulate)
    packed = lowbit.pack_fields(codes.to(torch.uint8), 2)
    with pytest.raises(ValueError, match="zero points of 2 bits are below 4, found 7"):
        lowbit_fragments(packed, ones, 2, 128, None, torch.full((1, 16), 7, dtype=torch.uint8))
