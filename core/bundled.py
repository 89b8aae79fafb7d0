"""The reference models that come with robustq: one network, adversarially trained, compressed twice, and undefended."""

from importlib.resources import as_file, files

from .checkpoint import Checkpoint, load
from .errors import InputFileError

DATA = "fashion-mini"
MODELS = ("float", "4-bit", "ternary", "undefended")


def model(name: str) -> Checkpoint:
    """One of `MODELS`; InputFileError where the installation lacks it."""
    place = files("robustq.core") / "data" / f"{name}.rq.safetensors"
    if not place.is_file():
        raise InputFileError(
            f"The bundled model {name!r} is missing from this installation.",
            "Install robustq again, or name a model: robustq bench MODEL --data NAME.",
        )
    with as_file(place) as path:
        return load(path)
