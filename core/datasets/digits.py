"""The 8x8 digits of scikit-learn's `load_digits`."""

from dataclasses import dataclass

from .bundled import Bundled


@dataclass(frozen=True, kw_only=True)
class Digits(Bundled):
    """Bundled 8x8 grey handwritten digits, values 0..16: the first 1,397 for training, the last 400 for testing."""

    SOURCE = "Alpaydin and Kaynak 1998, UCI optical recognition of handwritten digits (CC BY 4.0)"
    file = "digits.npz"
    divisor = 16.0
