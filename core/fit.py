"""Whether a network and a data set fit each other."""

import torch

from .architecture import Classifier
from .datasets.dataset import Dataset
from .errors import OptionError


def check_shape(model: Classifier, data: Dataset, name: str) -> None:
    """One image through the model, so that a mismatch is named before the work begins."""
    x, _ = data.batch(torch.arange(min(1, len(data))))
    device = next(model.parameters(), x).device
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(x.to(device))
    except RuntimeError as error:
        shape = "x".join(str(side) for side in data.shape)
        raise OptionError(
            f"{name} cannot take images of {data.name} ({shape}): {str(error).splitlines()[0]}.",
            "Check --data, --arch and --arch-arg.",
        ) from None
    finally:
        model.train(training)
    if logits.ndim != 2 or (len(data) and logits.shape[1] <= int(data.labels.max())):
        raise OptionError(
            f"{name} gives an output of shape {list(logits.shape)}, but {data.name} has {data.classes} classes.",
            "A model must give (n, classes) logits; check --data and --arch.",
        )
