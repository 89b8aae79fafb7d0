"""Which radius an attack gets."""

import pytest

from robustq.core.errors import OptionError
from robustq.core.recipe import Spec
from robustq.core.threat import resolve_attack


def test_the_customary_radius_of_the_data_unless_one_is_given() -> None:
    assert resolve_attack(Spec("pgd"), "cifar10").radius == 8 / 255
    assert resolve_attack(Spec("pgd", {"eps": "2/255"}), "cifar10").radius == 2 / 255
    assert resolve_attack(Spec("pgd", {"eps": 0}), "cifar10").radius == 0


@pytest.mark.parametrize(("options", "data"), [({}, None), ({}, "digits"), ({"norm": "l2"}, "cifar10")])
def test_no_radius_is_made_up(options: dict[str, str], data: str | None) -> None:
    with pytest.raises(OptionError, match=r"no customary radius[\s\S]*--eps"):
        resolve_attack(Spec("pgd", options), data)
