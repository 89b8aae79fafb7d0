"""Quantized activations: every ReLU gives multiples of a resolution of its own, which is learnt."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import inserted
from ..activation import COARSE, LEAST, MOST, QuantizedReLU
from ..errors import OptionError
from ..option import option
from ..session import Compressor, Session, Weights

# Where a standard normal input is rounded best (least mean squared error over its positive half). The released code
# starts from these for 1, 2 and 4 bits; the others were computed likewise.
RESOLUTIONS = {1: 1.2221, 2: 0.6511, 3: 0.3537, 4: 0.1946, 5: 0.1054, 6: 0.0572, 8: 0.0165}


@dataclass(frozen=True, kw_only=True)
class QuantizedRelu(Compressor):
    """Each nn.ReLU becomes ceil(x / r) r in [0, (2^bits - 1) r], r learnt with a coarse gradient.

    Compresses no weights: combine it with binary-relax or bcgd for a network of low bits throughout. The resolutions
    are stored in the file, and the network rounds wherever it is used.
    """

    SOURCE = "Yin et al. 2019 (arXiv 1808.05240), sections 2 and 3"
    bits: int = option(4, "bits an activation", choices=tuple(RESOLUTIONS))
    coarse: str = option(
        "mean",
        "gradient to r within the range: ae ceil(x / r), mean 2^(bits - 1), min 1, pact 0",
        choices=COARSE,
    )
    rate: float = option(0.01, "learning rate of r", unit="learning rates of the weights", low=0)

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return QuantizedReluSession(self)


class QuantizedReluSession(Session):
    """No state of its own: the resolutions are parameters of the network."""

    def __init__(self, options: QuantizedRelu) -> None:
        self.options = options
        self.layers: list[QuantizedReLU] = []

    def install(self, net: nn.Module, images: Tensor) -> None:
        places = [name for name, m in net.named_modules() if isinstance(m, (nn.ReLU, QuantizedReLU))]
        if not places:
            raise OptionError(
                f"quantized-relu: {type(net).__name__} has no nn.ReLU module.",
                "Only modules can be replaced: write nn.ReLU() in the class in place of F.relu.",
            )
        sizes = inserted.observed(net, images, places, _deviation)
        spec = {"kind": "quantized-relu", "bits": self.options.bits, "coarse": self.options.coarse}
        for place in places:
            start = min(max(RESOLUTIONS[self.options.bits] * sizes.get(place, 1.0), LEAST), MOST)
            self.layers.append(inserted.quantized_relu(net, place, 1, start, spec))

    def join(self, optimizer: Optimizer) -> None:
        group = {"params": [m.resolution for m in self.layers], "weight_decay": 0.0, "factor": self.options.rate}
        optimizer.add_param_group(group)
        for layer in self.layers:
            layer.resolution.register_hook(lambda grad: grad.clamp(-1, 1))  # as in the released code

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        for layer in self.layers:
            layer.resolution.clamp_(LEAST, MOST)

    def metrics(self) -> dict[str, float]:
        """The mean resolution."""
        return {"resolution": float(torch.cat([m.resolution.detach() for m in self.layers]).mean())}


def _deviation(values: Tensor) -> float:
    """Root mean square of what enters a ReLU: 1 after a batch norm that only normalises."""
    return float(values.square().mean().sqrt())
