"""When an op is called past the dispatcher, and that every caller who would see the dispatcher still does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from robustq.kernels import backend, direct, lowbit, lowbit_ops, ops, reference

pytestmark = pytest.mark.skipif(backend.native is None, reason="the native module is not built")
CODES = torch.tensor([[1, -1, 0], [0, 1, 1]], dtype=torch.int8)
X = torch.tensor([[1.0, 2.0, 4.0]])
NEGATIVE = torch.ops.aten._neg_view
PACKED, WORDS, SCALE = lowbit.pack(CODES, 2), reference.pack(CODES), torch.ones(1, 2)


def layer(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return lowbit_ops.lowbit_linear(x, PACKED, SCALE, bias, 2, 3)


def exact(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return ops.ternary_linear(x, WORDS, SCALE[:, :1], bias, 2, 3)


@pytest.fixture(params=[layer, exact])
def op(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    return request.param


def plain(**changes: Any) -> bool:
    usual: dict[str, Any] = {"x": X, "packed": PACKED, "scale": SCALE, "bias": None}
    return direct.plain(*(usual | changes).values())


def test_the_usual_call_is_direct() -> None:
    """If a torch release adds a key of its own this fails, and calls are slow, but right."""
    assert plain()
    assert plain(bias=torch.nn.Parameter(torch.ones(2), requires_grad=False))
    with torch.no_grad():
        assert plain(bias=torch.nn.Parameter(torch.ones(2)))
    with torch.inference_mode():
        assert plain()
        assert plain(x=X + 1)
    with torch.autocast("cpu"):
        assert plain()


class Sub(Tensor):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"x": X.clone().requires_grad_()},
        {"bias": torch.nn.Parameter(torch.ones(2))},
        {"scale": torch.ones(1, 2).requires_grad_()},
        {"x": X.as_subclass(Sub)},
        {"x": NEGATIVE(X)},
        {"bias": NEGATIVE(torch.ones(2))},
        {"x": X.to("meta")},
        {"packed": torch.zeros(1, 1, 64, dtype=torch.uint8, device="meta")},
        {"scale": torch.ones(1, 2, device="meta")},
        {"bias": torch.ones(2, device="meta")},
        {"x": X.to_sparse()},
    ],
)
def test_not_direct(changes: dict[str, Tensor]) -> None:
    assert not plain(**changes)


def test_lazily_negated_inputs(op: Callable[..., Tensor]) -> None:
    bias = torch.tensor([3.0, 5.0])
    assert torch.equal(op(NEGATIVE(X), NEGATIVE(bias)), -op(X, bias))


def test_modes_see_the_op(op: Callable[..., Tensor]) -> None:
    seen: list[str] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(f"function {func}")
            return func(*args, **(kwargs or {}))

    class Dispatches(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(f"dispatch {func}")
            return func(*args, **(kwargs or {}))

    for mode in (Functions, Dispatches):
        with mode():
            assert op(X)[0].tolist() == pytest.approx([-1, 6], rel=1e-4)
    assert {line.split()[0] for line in seen if "robustq" in line} == {"function", "dispatch"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_traces_hold_the_op(op: Callable[..., Tensor]) -> None:
    def call(x: Tensor) -> Tensor:
        return op(x)

    assert "robustq" in make_fx(call)(X).code
    assert "robustq" in torch.fx.symbolic_trace(call).code
    trace: Any = torch.jit.trace(call, X)
    assert "robustq" in str(trace.graph)
    with torch.profiler.profile() as profile:
        op(X)
    assert any("robustq" in event.name for event in profile.events() or [])


def test_gradients_flow(op: Callable[..., Tensor]) -> None:
    x, bias = X.clone().requires_grad_(), torch.zeros(2, requires_grad=True)
    op(x, bias).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 1]]
    assert bias.grad is not None
    assert bias.grad.tolist() == [1, 1]
