"""Why there are no kernels: also where a kernel is asked for that the device does not have."""

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
