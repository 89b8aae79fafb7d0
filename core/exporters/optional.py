"""Libraries that only the `onnx` extra installs."""

import importlib
from types import ModuleType

from ..errors import OptionError


def require(name: str, why: str) -> ModuleType:
    """The module, imported; OptionError saying how to install it where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise OptionError(
            f"{why}, and {name} is not installed.",
            'Run: pip install "robustq[onnx]". Without it, `--to safetensors,state-dict` works.',
        ) from None
