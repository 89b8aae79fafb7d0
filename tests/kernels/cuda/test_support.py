"""Why there are no kernels: also where a kernel is asked for that the device does not have."""

import subprocess
import sys

import pytest
import torch

from robustq.kernels.cuda import support


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


@pytest.mark.parametrize("first", ["network", "lowbit_ops", "cuda.network_ops"])
def test_the_ops_are_registered_whatever_is_imported_first(first: str) -> None:
    code = (
        "import torch; torch.backends.cuda.is_built = lambda: True; "
        f"import robustq.kernels.{first}, robustq.kernels.network_ops; "
        "has = torch._C._dispatch_has_kernel_for_dispatch_key; "
        "assert all(has(f'robustq::lowbit_{name}', 'CUDA') for name in ('linear', 'conv2d', 'network'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
