"""Why there are no kernels: also where a kernel is asked for that the device does not have."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from robustq.kernels import lowbit
from robustq.kernels.cuda import ops, support
from robustq.kernels.cuda.products import Gpu


@pytest.mark.parametrize(
    ("capability", "wanted", "reason"),
    [
        ((7, 5), "standard", "older than compute capability 8.0"),
        ((9, 0), "fastest", "ROBUSTQ_CUDA_GEMM='fastest' is none of standard, specialised"),
        ((8, 0), "specialised", "needs a GPU of compute capability 9.0"),
    ],
)
def test_the_reason_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], wanted: str, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(support, "gemm", wanted)
    assert reason in str(support.reason.__wrapped__())


def test_the_exact_mode_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.support, "reason", lambda: None)
    codes = torch.randint(-7, 8, (6, 8), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    scale, x = torch.ones(1, 6), torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(1))
    layer = (lowbit.pack(codes, 4), scale, None, 4)
    window = ([1, 1], [1, 1], [0, 0], [1, 1], 1)
    y = ops.conv2d_cuda(x, *layer, *window, "exact", False)
    assert torch.equal(y, lowbit.conv2d(x, *layer, *window, "exact", False))
    rows = x[:, :, 0, 0]
    assert torch.equal(ops.linear_cuda(rows, *layer, 8, "exact", True), lowbit.linear(rows, *layer, 8, "exact", True))


@pytest.mark.parametrize(
    "first", ["network", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lowbit_ops", "cuda.network_ops"))]
)
def test_the_ops_are_registered_whatever_is_imported_first(first: str) -> None:
    code = (
        "import torch; torch.backends.cuda.is_built = lambda: True; "
        f"import robustq.kernels.{first}, robustq.kernels.network_ops; "
        "has = torch._C._dispatch_has_kernel_for_dispatch_key; "
        "assert all(has(f'robustq::lowbit_{name}', 'CUDA') for name in ('linear', 'conv2d', 'network'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("major", "wanted", "expected"),
    [
        (9, "standard", Gpu(wgmma=True, processors=114)),
        (9, "specialised", Gpu(wgmma=True, specialised=True, processors=114)),
        (8, "standard", Gpu(processors=114)),
    ],
)
def test_the_kernel_that_no_gpu_has_run_is_chosen_only_on_request(
    monkeypatch: pytest.MonkeyPatch, major: int, wanted: str, expected: Gpu
) -> None:
    facts = SimpleNamespace(major=major, minor=0, multi_processor_count=114)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(support, "gemm", wanted)
    assert support.GEMMS[0] == "standard"
    assert ops.gpu(torch.empty(0)) == expected
