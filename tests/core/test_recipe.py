"""Recipes: TOML, assignments, round trips, and every mistake named with its place."""

from pathlib import Path

import pytest

from robustq.core.errors import InputFileError, OptionError, RobustqError
from robustq.core.recipe import Recipe, Spec, pairs

TEXT = """
[model]
arch = "resnet"
args = { depth = 8 }
[data]
name = "fashion-mnist"
limit = 100
[train]
lr = "1/10"
[objective]
name = "trade-off"
beta = 8
[attack]
name = "pgd"
eps = "8/255"
[[compress]]
name = "magnitude"
sparsity = 0.5
[[compress]]
name = "binary-relax"
bits = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "run.toml"
    path.write_text(TEXT)
    return Recipe.read(path)


def test_read(recipe: Recipe) -> None:
    assert recipe.model.arch == "resnet"
    assert recipe.model.args == {"depth": 8}
    assert recipe.train.lr == 0.1
    assert recipe.objective == Spec("trade-off", {"beta": 8})
    assert recipe.attack == (Spec("pgd", {"eps": "8/255"}),)
    assert [spec.name for spec in recipe.compress] == ["magnitude", "binary-relax"]


def test_plain_values_give_the_same_recipe_back(recipe: Recipe) -> None:
    plain = {section: value for section, value in recipe.to_dict().items() if value is not None}
    assert Recipe.from_dict(plain) == recipe


def test_assignments(recipe: Recipe) -> None:
    changed = recipe.with_values(["train.epochs=3", "compress.1.bits=4", "attack.eps=0.1", "objective.beta=6"])
    assert changed.train.epochs == 3
    assert changed.compress[1].options["bits"] == "4"
    assert changed.compress[0] == recipe.compress[0]
    assert changed.attack[0].options["eps"] == "0.1"
    assert changed.objective == Spec("trade-off", {"beta": "6"})


def test_portable_leaves_out_places(recipe: Recipe) -> None:
    there = recipe.replace("data", dir="/home/me/data").replace("model", init="/home/me/net.pt")
    assert there.portable().data.dir is None
    assert there.portable().model.init == "net.pt"
    assert there.portable().train == recipe.train


def test_errors_of_a_part_name_its_entry(recipe: Recipe) -> None:
    with pytest.raises(OptionError, match=r"^average\.kind is 'zzz'"):
        recipe.replace("average", kind="zzz")


def test_replace_leaves_what_is_not_given(recipe: Recipe) -> None:
    changed = recipe.replace("train", epochs=2, lr=None)
    assert (changed.train.epochs, changed.train.lr) == (2, 0.1)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs=3", "not an assignment"),
        ("train.epochs", "not an assignment"),
        ("train.epocs=3", "Did you mean 'epochs'"),
        ("trian.epochs=3", "there is no 'trian'"),
        ("train.epochs=many", "'many' is not a number"),
        ("compress.7.bits=2", "'7' is not a place in a list of 2"),
        ("train.schedule=linear", r"^--set: train\.schedule is 'linear'\.\nIt can be one of: cosine, step, constant"),
        ("average.kind=zzz", r"^--set: average\.kind is 'zzz'\.\nIt can be one of: none, ema, swa"),
        ("distill.weight=2", r"^--set: distill\.weight is 2\.0, outside \[0, 1\]"),
    ],
)
def test_wrong_assignments(recipe: Recipe, assignment: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recipe.with_values([assignment])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\nlr=1", "not a TOML file"),
        ("[training]\nlr=1", r"no section \[training\].\nDid you mean 'train'"),
        ("[train]\nlearning=1", "train has no entry 'learning'"),
        ("[[compress]]\nbits=2", "needs a name"),
        ("train = 3", "train is 3, not a table"),
        ("[train]\nepochs=0", r"bad\.toml: train\.epochs is 0, outside"),
        ("[run]\nthreads=0", r"bad\.toml: run\.threads is 0, outside"),
        ("[train]\nSECTION='run'", "train has no entry 'SECTION'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RobustqError, match=message) as caught:
        Recipe.read(path)
    assert "bad.toml" in str(caught.value)


def test_missing_file() -> None:
    with pytest.raises(InputFileError, match=r"no-such\.toml: the recipe cannot be read"):
        Recipe.read("no-such.toml")


def test_spec_and_pairs_parse_flags() -> None:
    assert Spec.parse("binary-relax:bits=2,group=layer") == Spec("binary-relax", {"bits": "2", "group": "layer"})
    assert Spec.parse("pgd") == Spec("pgd")
    assert pairs(["noise-std=batch"]) == {"noise_std": "batch"}
    with pytest.raises(OptionError, match="'depth' is not an assignment"):
        pairs(["depth"])
