"""A small data set and small checkpoints that several tests use."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import settings

from robustq.core import rng
from robustq.core.architecture import create
from robustq.core.checkpoint import Checkpoint, Source, load, save

settings.register_profile("untimed", parent=settings(), deadline=None)  # no test is about how busy a machine is
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def quadrants(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four classes of 12x12 images: a bright quadrant each, with noise; 240 to train, 40 to test."""
    generator = np.random.default_rng(0)
    y = np.arange(280) % 4
    x = generator.integers(0, 100, (280, 12, 12), dtype=np.uint8)
    for image, label in zip(x, y, strict=True):
        top, left = 6 * (label // 2), 6 * (label % 2)
        image[top : top + 6, left : left + 6] += 120
    path = tmp_path_factory.mktemp("data") / "quadrants.npz"
    np.savez(path, x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:])
    return str(path)


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained LeNet for these images, in a robustq file that records its class and normalisation."""
    with rng.seeded("lenet"):
        net = create("lenet", {"size": 12, "classes": 4, "width": 3})
    meta = {
        "arch": {"name": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
        "normalization": {"mean": [0.3], "std": [0.2]},
    }
    path = tmp_path_factory.mktemp("models") / "parent.rq.safetensors"
    save(Checkpoint(dict(net.state_dict()), {}, {}, meta, Source("", "robustq", "", 0, ())), path)
    load(path)
    return path


@pytest.fixture(scope="session")
def elsewhere() -> ModuleType:
    """`core/elsewhere.py`: a device that every machine has."""
    spec = importlib.util.spec_from_file_location("elsewhere", Path(__file__).parent / "core" / "elsewhere.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
