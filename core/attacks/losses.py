"""What attacks increase: the cross entropy at a temperature, the margin, or the difference of logits ratio."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from .attack import State, margin
from .dlr import dlr, targeted_dlr

LOSSES = ("ce", "margin", "dlr")
AUTO = "auto"
TEMPERATURE_HELP = "what logits are divided by in the cross entropy; auto: each image's own, where logits saturate"
_SPREAD = 10.0  # at temperature `auto` the highest logit of an image lies so far above their mean

Temperature = float | str


def check_temperature(owner: str, value: Temperature) -> None:
    """OptionError unless the temperature is above 0, or `auto`."""
    if value != AUTO and (isinstance(value, str) or value <= 0):
        raise OptionError(f"{owner}: temperature is {value!r}.", "Give a number above 0, or auto.")


class Tempered:
    """What attacks with a `temperature` share: it is checked, and `auto` needs the answers to the images themselves."""

    temperature: Temperature

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]  # of the attack that it is mixed into
        check_temperature(type(self).__name__, self.temperature)

    @property
    def sees_answers(self) -> bool:
        return self.temperature == AUTO


def increased(loss: str, state: State, logits: Tensor, temperature: Temperature = 1.0) -> Tensor:
    """logits (n, classes) -> (n,) the loss of leaving the label."""
    if loss == "margin":
        return margin(logits, state["y"])
    if loss == "dlr":
        return dlr(logits, state["y"])
    return F.cross_entropy(tempered(state, logits, temperature), state["y"], reduction="none")


def increased_towards(aim: Tensor, loss: str, state: State, logits: Tensor, temperature: Temperature = 1.0) -> Tensor:
    """logits (n, classes), aim (n,) -> (n,) the gain of coming to class `aim`."""
    if loss == "margin":
        return (logits.gather(1, aim[:, None]) - logits.gather(1, state["y"][:, None]))[:, 0]
    if loss == "dlr":
        return targeted_dlr(logits, state["y"], aim)
    return -F.cross_entropy(tempered(state, logits, temperature), aim, reduction="none")


def tempered(state: State, logits: Tensor, temperature: Temperature) -> Tensor:
    """The logits over the temperature.

    Where the label leads by 17 its probability rounds to 1 in float32, and the gradient of the cross entropy points
    nowhere good; from about 100 on it is exactly zero (Gupta & Ajanthan 2022 rescale low-bit networks for that). The
    temperature `auto` is fixed for each image by its clean logits, so that the values of a whole attack are comparable;
    it leaves an ordinary network about as it is.
    """
    if isinstance(temperature, str):
        known = state["clean_logits"]
        spread = (known.amax(1) - known.mean(1)) / _SPREAD
        return logits / spread.clamp_min(torch.finfo(logits.dtype).tiny)[:, None]
    return logits if temperature == 1.0 else logits / temperature
