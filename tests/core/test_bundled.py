"""The bundled models: there, small, described, and a story that follows the figures."""

from importlib.resources import files

import pytest

from robustq.core import bundled
from robustq.core.architecture import build


def test_each_is_in_the_package_and_all_are_small() -> None:
    sizes = [(files("robustq.core") / "data" / f"{name}.rq.safetensors").stat().st_size for name in bundled.MODELS]  # type: ignore[attr-defined]
    assert sum(sizes) < 1_500_000
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.parametrize("name", bundled.MODELS)
def test_each_says_how_it_was_made(name: str) -> None:
    checkpoint = bundled.model(name)
    assert checkpoint.meta["recipe"]["data"]["name"] == "fashion-mnist"
    assert checkpoint.meta["recipe"]["data"]["limit"] is None
    assert checkpoint.meta["arch"]["name"] == "resnet"
    assert checkpoint.meta["data"]["shape"] == [1, 28, 28]
    assert not build(checkpoint).training


def test_the_compressed_ones_name_their_parent() -> None:
    parent = bundled.model("float").source.sha256
    for name, bits in (("4-bit", 4), ("ternary", 2)):
        checkpoint = bundled.model(name)
        assert checkpoint.meta["parent"]["sha256"] == parent
        assert [spec["bits"] for spec in checkpoint.meta["methods"]] == [bits]
    assert bundled.model("undefended").meta["recipe"]["objective"] == {"name": "natural"}


def entry(name: str, robust: float, size: int) -> dict[str, object]:
    return {"name": name, "worst_case": {"value": robust}, "bytes": size, "complete": True}


def test_the_story_follows_the_figures() -> None:
    entries = [
        entry("float", 0.7, 300),
        entry("4-bit", 0.7, 50),
        entry("ternary", 0.65, 30),
        entry("undefended", 0, 300),
    ]
    told = bundled.story(entries)
    assert told is not None
    assert "breaks the undefended network (0.0%)" in told
    assert "10.0 times smaller" in told
    entries[3] = entry("undefended", 0.4, 300)
    told = bundled.story(entries)
    assert told is not None
    assert "too weak to prove anything" in told
    assert bundled.story(entries[:3]) is None
