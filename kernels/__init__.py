"""Kernels: op schemas, reference implementations and native code.

    from robustq.kernels import status, pack_model, fuse, PackedLinear, PackedConv2d

torch is imported only when something that needs it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .backend import status

if TYPE_CHECKING:
    from .fusion import PackedNetwork, fuse
    from .lowbit_ops import lowbit_conv2d, lowbit_linear
    from .modules import PackedConv2d, PackedLinear, pack_model
    from .network_ops import lowbit_network
    from .ops import ternary_dense, ternary_linear

__all__ = [
    "PackedConv2d",
    "PackedLinear",
    "PackedNetwork",
    "fuse",
    "lowbit_conv2d",
    "lowbit_linear",
    "lowbit_network",
    "pack_model",
    "status",
    "ternary_dense",
    "ternary_linear",
]
HOMES = {
    "PackedConv2d": ".modules",
    "PackedLinear": ".modules",
    "PackedNetwork": ".fusion",
    "fuse": ".fusion",
    "lowbit_conv2d": ".lowbit_ops",
    "lowbit_linear": ".lowbit_ops",
    "lowbit_network": ".network_ops",
    "pack_model": ".modules",
    "ternary_dense": ".ops",
    "ternary_linear": ".ops",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name], __package__), name)
