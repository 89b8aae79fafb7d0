"""Native code without the dispatcher: whether an op may be called as a plain function, and addresses for it.

Dispatcher and autograd cost more than a small layer. One row through a layer of 1024 x 1024 takes the native code
6 us; torch's way to it takes 10, and twice that where the weights of a large layer have just pushed torch's code out of
the cache. The way is left out only when nothing would happen on it: no gradient is asked for, and nobody traces,
compiles, transforms or watches, as told by the state from which the dispatcher itself chooses.
"""

import torch
from torch import Tensor, nn
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_keys,
    _dispatch_tls_local_include_set,
    _is_torch_function_mode_enabled,
)
from torch._C._autograd import _profiler_enabled as profiled
from torch.compiler import is_dynamo_compiling

# What torch always includes, and what it includes in inference mode; tracing, functorch and modes add keys.
CALM = (
    DispatchKeySet(DispatchKey.BackendSelect) | DispatchKeySet(DispatchKey.ADInplaceOrView),
    DispatchKeySet(DispatchKey.BackendSelect),
)
# A dense tensor on the CPU, neither wrapped nor lazily negated; the second is made in inference mode.
INFERENCE = DispatchKeySet(DispatchKey.CPU) | DispatchKeySet(DispatchKey.AutocastCPU)
DENSE = (
    INFERENCE | DispatchKeySet(DispatchKey.ADInplaceOrView) | DispatchKeySet(DispatchKey.AutogradCPU),
    INFERENCE,
)
KINDS = (Tensor, nn.Parameter)  # no other class, such as a fake tensor


def calm(x: Tensor) -> bool:
    """True where nobody but autograd would see whether an op is called on x (see `tracked`), a plain CPU tensor."""
    # Dynamo answers the first question with True and reads no further.
    if is_dynamo_compiling() or type(x) is not Tensor or _is_torch_function_mode_enabled():
        return False
    return _dispatch_tls_local_include_set() in CALM and _dispatch_keys(x) in DENSE and not profiled()


def ordinary(*tensors: Tensor | None) -> bool:
    """True for tensors on the CPU, neither of a class of their own nor lazily negated."""
    return all(t is None or (t.is_cpu and type(t) in KINDS and not t.is_neg()) for t in tensors)


def tracked(*tensors: Tensor | None) -> bool:
    """Whether autograd follows what is done with one of these."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def plain(x: Tensor, *others: Tensor | None) -> bool:
    """True where calling an op's implementation for the CPU on these does what calling the op does."""
    return calm(x) and ordinary(*others) and not tracked(x, *others)


def address(tensor: Tensor | None) -> int:
    """What native code takes for a tensor; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()
