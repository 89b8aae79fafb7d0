"""What a robustq file says of itself is checked on reading."""

from pathlib import Path
from typing import Any

import pytest

from robustq.core import provenance
from robustq.core.checkpoint import Checkpoint, Source, load, save
from robustq.core.errors import InputFileError

WHOLE: dict[str, Any] = {
    "arch": {"name": "resnet", "args": {"depth": 8}},
    "normalization": {"mean": [0.5, 0.4, 0.3], "std": [1]},
    "data": {"name": "mnist", "shape": [1, 28, 28]},
    "parent": {"name": "model.pt", "sha256": "ab", "bytes": 3},
    "methods": [{"name": "projection", "bits": 2}],
    "keep_fp": ["first", "last"],
    "inserted": [{"kind": "weight-noise", "level": "channel", "at": ["conv1.weight"]}],
    "shrunk": {"pads": {"layer2.0.shortcut": [8, 0]}},
    "recipe": {"run": {"seed": 0}},
}


def test_what_robustq_writes_passes() -> None:
    provenance.check(WHOLE)
    provenance.check({})
    provenance.check(dict.fromkeys(WHOLE) | {"of another program": 5})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 5) for key in WHOLE),
        ("arch", {"name": 5}),
        ("arch", {"name": "resnet", "args": [8]}),
        ("normalization", {"mean": [0.5]}),
        ("normalization", {"mean": ["a"], "std": [1.0]}),
        ("normalization", {"mean": [], "std": [1.0]}),
        ("normalization", {"mean": [0.5], "std": [0.0]}),
        ("normalization", {"mean": [0.5, 0.5], "std": [1.0, 1.0, 1.0]}),
        ("normalization", {"mean": [1e39], "std": [1.0]}),
        ("data", {"name": 5}),
        ("data", {"name": "mnist", "shape": [1, "28", 28]}),
        ("parent", {"name": "model.pt"}),
        ("parent", {"name": "../model.pt", "sha256": "ab"}),
        ("parent", {"name": "..", "sha256": "ab"}),
        ("parent", {"name": "a\0b", "sha256": "ab"}),
        ("methods", [5]),
        ("methods", [{"bits": 2}]),
        ("keep_fp", [5]),
        ("shrunk", {"pads": []}),
        ("shrunk", {"pads": {"layer2.0.shortcut": [8]}}),
        ("shrunk", {"pads": {"layer2.0.shortcut": [8, -1]}}),
        ("shrunk", {"pads": {"layer2.0.shortcut": [True, 0]}}),
        ("inserted", [5]),
        ("inserted", [{"kind": "weight-noise", "level": "channel"}]),
        ("inserted", [{"kind": "weight-noise", "level": "row", "at": ["conv1.weight"]}]),
        ("inserted", [{"kind": "input-noise", "level": "layer", "at": ["conv1"]}]),
        ("inserted", [{"kind": "quantized-relu", "bits": 64, "coarse": "mean", "at": ["relu"]}]),
        ("inserted", [{"kind": "sparkle", "at": ["conv1"]}]),
    ],
)
def test_what_is_not_of_its_form_is_named(key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "net.rq.safetensors"
    save(Checkpoint({}, {}, {}, {**WHOLE, key: value}, Source("", "memory", "", 0)), path)
    with pytest.raises(InputFileError, match=rf"net.rq.safetensors: the header's '{key}' is "):
        load(path)
