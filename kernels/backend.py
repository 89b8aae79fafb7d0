"""The native module: whether it is there, why not, and which instruction set it uses.

ROBUSTQ_ISA=scalar|avx2|avx512|avx512vnni|amx|amxfp16 forces an instruction set (for tests and measurements). A name
that this build or processor does not offer switches native code off and is the reason that `status()` gives: nothing is
ever measured on another instruction set than the one asked for, and results stay right, from the reference.
ROBUSTQ_ISA=none asks for the reference. ROBUSTQ_SPARSE=auto|always|never is about layers with many zeros (sparse.py).
"""

import importlib
import os
from importlib.resources import files
from typing import Any

PACKAGE = "robustq.kernels"
SPARSE = ("auto", "always", "never")


def load() -> tuple[Any, str | None]:
    """(module, None) or (None, reason)."""
    try:
        module = importlib.import_module(f"{PACKAGE}._native")
    except ModuleNotFoundError as error:
        if error.name != f"{PACKAGE}._native":
            raise
        note = files(PACKAGE) / "_build.txt"
        return None, note.read_text().strip() if note.is_file() else "not built"
    except ImportError as error:
        return None, f"the native module does not load: {error}"
    wanted = os.environ.get("ROBUSTQ_ISA", "")
    if wanted == "none":
        return None, "switched off by ROBUSTQ_ISA=none"
    if wanted:
        try:
            module.use(wanted)
        except ValueError:
            offered = ", ".join([*module.available(), "none"])
            return None, f"ROBUSTQ_ISA={wanted!r} is not offered here; there are: {offered}"
    if (wanted := os.environ.get("ROBUSTQ_SPARSE", "auto")) not in SPARSE:
        return None, f"ROBUSTQ_SPARSE={wanted!r} is none of {', '.join(SPARSE)}"
    return module, None


native, reason = load()
sparse = os.environ.get("ROBUSTQ_SPARSE", "auto")


def status() -> dict[str, Any]:
    """What the kernels run on.

    native     True where the compiled module is in use
    reason     why not, or None
    isa        the instruction set in use, "reference" without native code
    available  the instruction sets this build and processor offer, slowest first
    sparse     whether layers run from lists of what is not zero: "auto" (where that is faster), "always" or "never"
    threads    the most threads a native call starts (torch.get_num_threads())
    cuda       whether CUDA tensors have kernels: True, or why not
    """
    import torch

    from .cuda import support

    return {
        "native": native is not None,
        "reason": reason,
        "isa": native.isa() if native else "reference",
        "available": list(native.available()) if native else [],
        "sparse": sparse if native else "never",
        "threads": torch.get_num_threads(),
        "cuda": support.reason() or True,
    }
