"""The table of names: every entry imports, is described and cites its source."""

import dataclasses

import pytest

from robustq.core import registry
from robustq.core.errors import OptionError, UnknownNameError
from robustq.core.option import Method

ENTRIES = [(kind, name) for kind in registry.kinds() for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ENTRIES, ids=[f"{kind}-{name}" for kind, name in ENTRIES])
def test_every_entry_is_a_documented_frozen_dataclass(kind: str, name: str) -> None:
    cls = registry.find(name, kind)
    assert issubclass(cls, Method)
    assert cls.__doc__
    assert cls.SOURCE
    for field in dataclasses.fields(cls):
        assert field.metadata.get("help"), f"{kind} {name}: {field.name} has no help"


def test_names_are_unique_among_compressors() -> None:
    compressors = registry.names(*registry.COMPRESSORS)
    assert len(compressors) == len(set(compressors))


def test_name_of_is_the_inverse_of_find() -> None:
    assert registry.name_of(registry.create("pgd", {"eps": 0.1}, "attack")) == "pgd"
    assert registry.name_of(registry.create("lenet", {}, "model")) == "lenet"


def test_did_you_mean() -> None:
    with pytest.raises(UnknownNameError, match=r"no attack named 'pgdd'.\nDid you mean 'pgd'"):
        registry.find("pgdd", "attack")
    with pytest.raises(UnknownNameError, match=r"There are: fgsm, ifgsm, pgd"):
        registry.find("zzzzzz", "attack")


def test_option_errors_name_kind_and_method() -> None:
    with pytest.raises(OptionError, match=r"attack pgd: .*steps.*'many' is not a number"):
        registry.create("pgd", {"eps": 0.1, "steps": "many"}, "attack")


def test_option_errors_name_the_kind_it_is_of_once() -> None:
    with pytest.raises(OptionError, match=r"^structure atmc: bits is 9\.\n"):
        registry.create("atmc", {"bits": 9}, *registry.COMPRESSORS)
    with pytest.raises(OptionError, match=r"^pruner hydra: sparsity is 1\.0, not between"):
        registry.create("hydra", {"sparsity": 1}, *registry.COMPRESSORS)
