"""A device that every machine has: tensors that compute on the CPU, but say they are elsewhere and do not mix.

Inside `with Elsewhere():` the device "meta" holds real numbers. What a GPU refuses is refused: an operation on tensors
of both places (those without axes excepted), and numpy's look at a tensor that is not on the CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
_aten = torch.ops.aten
_ACROSS = (_aten.copy_.default, _aten._to_copy.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default)


class There(Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "There":
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held = inner
        return made

    def __repr__(self, **_named: Any) -> str:  # type: ignore[override]
        return f"There({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], _meta: None, _size: Any, _stride: Any) -> "There":
        return There(parts["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class Elsewhere:
    """Inside, tensors can be made on the device and moved to it."""

    def __enter__(self) -> None:
        self.modes = (_Operations(), _Literals())
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)


class _Literals(TorchFunctionMode):
    """Tensors of Python numbers, which are made without an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            return func(*args, **named)
        given = args[0].device if func is Tensor.new_tensor else "cpu"
        device = torch.device(named.pop("device", None) or given)
        if func is Tensor.new_tensor:
            named.setdefault("dtype", args[0].dtype)
            return torch.tensor(*args[1:], **named).to(device)
        return func(*args, **named).to(device)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    there = any(isinstance(value, There) for value in flat)
    asked = kwargs.get("device")
    if there and func not in _ACROSS:
        own = flat[:1] if func in _INDEXING else flat  # an index may be on the CPU, what is indexed may not
        left = [v for v in own if isinstance(v, Tensor) and not isinstance(v, There) and v.dim()]
        if left:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but {left[0].shape} is on cpu")
    named = {**kwargs, **({"device": torch.device("cpu")} if asked is not None else {})}
    inner_args, inner_named = tree_map(lambda v: v.held if isinstance(v, There) else v, (args, named))
    found = func(*inner_args, **inner_named)
    if func is _aten.copy_.default and not isinstance(args[0], There):
        return args[0]
    lands = torch.device(asked).type == DEVICE.type if asked is not None else there
    if not lands:
        return found
    made = tree_map(lambda v: There(v) if isinstance(v, Tensor) and not isinstance(v, There) else v, found)
    return return_and_correct_aliasing(func, args, kwargs, made) if there else made
