"""The threat model: which attack at which radius."""

from dataclasses import fields
from typing import Any

from . import datasets, registry
from .attacks.attack import Attack
from .errors import OptionError
from .recipe import Spec


def resolve_attack(spec: Spec, data: str | None) -> Attack:
    """The attack of a spec; where no radius is given, its own, else the customary one of the data set.

    Raises OptionError where there is none, UnknownNameError.
    """
    options: dict[str, Any] = dict(spec.options)
    own = {field.name: field.default for field in fields(registry.find(spec.name, "attack"))}
    if options.get("eps") is None and own["eps"] is None:
        norm = options.get("norm", own["norm"])
        eps = datasets.info(data).eps if data is not None and norm == "linf" else None  # usual radii are L-inf radii
        if eps is None:
            raise OptionError(
                f"there is no customary radius for {data or 'this data'} in the {norm} norm.",
                "Give --eps, the radius in input units of [0, 1], for example --eps 8/255.",
            )
        options["eps"] = eps
    return registry.create(spec.name, options, "attack")
