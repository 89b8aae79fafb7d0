"""Two processes that train together, on this machine's loopback address."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustq.core import execution
from robustq.core.architecture import create
from robustq.core.errors import OptionError
from robustq.core.recipe import Recipe, RunPart
from robustq.core.replicas import Replicas
from robustq.core.replicas import alone as apart
from robustq.core.training import train

LENET: dict[str, Any] = {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}}
RESNET: dict[str, Any] = {"arch": "resnet", "args": {"depth": 8, "width": 2, "channels": 1, "classes": 4}}
PRUNED_AND_QUANTIZED = {
    "objective": {"name": "trade-off"},
    "attack": {"name": "pgd", "steps": 2, "eps": 0.1},
    "compress": [{"name": "dnr", "sparsity": 0.5}, {"name": "binary-relax", "bits": 4}],
}


def recipe(quadrants: str, **parts: Any) -> dict[str, Any]:
    # 200 images to train in batches of 33: the last one has two, and batches are not halved evenly.
    settings = {"epochs": 1, "lr": 0.05, "batch_size": 33, "validation": 40}
    return {"data": {"name": quadrants}, "train": settings, "model": LENET, **parts}


@pytest.fixture(scope="module")
def both(quadrants: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Job -> what each of two processes ended with."""
    folder = tmp_path_factory.mktemp("together")
    mixed = recipe(quadrants, **PRUNED_AND_QUANTIZED)
    small = recipe(quadrants)
    small["train"] = {**small["train"], "batch_size": 1}
    jobs = [
        {"out": "mixed", "recipe": mixed},
        {"out": "again", "recipe": mixed, "stop": 4},
        {"out": "again", "recipe": mixed},
        {"out": "norm", "recipe": recipe(quadrants, model=RESNET, compress=[{"name": "admm", "sparsity": 0.5}])},
        {"out": "hydra", "recipe": recipe(quadrants, compress=[{"name": "hydra", "sparsity": 0.5, "switch": 0.7}])},
        {"out": "factors", "recipe": recipe(quadrants, compress=[{"name": "atmc", "sparsity": 0.5, "bits": 2}])},
        {"out": "small", "recipe": small},
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(Path(__file__).with_name("together.py")), "jobs.json"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, cwd=folder, env={**os.environ, **place, "RANK": str(rank)}) for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    return {job["out"]: [torch.load(folder / f"{job['out']}.{rank}") for rank in range(2)] for job in jobs}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.parametrize("job", ["mixed", "again", "norm", "hydra", "factors"])
def test_all_processes_hold_the_same(both: dict[str, Any], job: str) -> None:
    first, second = both[job]
    for part in ("weights", "sessions", "result", "history"):
        assert same(first[part], second[part]), part
    assert first["history"][0]["processes"] == 2


def test_without_batch_norm_the_result_is_that_of_one_process(both: dict[str, Any], quadrants: str) -> None:
    alone = train(Recipe.from_dict(recipe(quadrants, **PRUNED_AND_QUANTIZED)))
    found = both["mixed"][0]
    for name, expected in alone.checkpoint.dense().items():
        assert torch.allclose(found["result"][name], expected, rtol=1e-4, atol=1e-5), name
    assert found["history"][0]["loss"] == pytest.approx(alone.history[0]["loss"], rel=1e-4)
    assert found["history"][0]["robust"] == alone.history[0]["robust"]
    assert "processes" not in alone.history[0]
    assert found["warnings"] == alone.warnings


def test_scores_are_learnt_from_the_images_of_all(both: dict[str, Any], quadrants: str) -> None:
    alone = train(Recipe.from_dict(recipe(quadrants, compress=[{"name": "hydra", "sparsity": 0.5, "switch": 0.7}])))
    for name, expected in alone.checkpoint.dense().items():
        assert torch.allclose(both["hydra"][0]["result"][name], expected, rtol=1e-3, atol=1e-4), name


def test_a_stopped_run_goes_on(both: dict[str, Any]) -> None:
    whole, resumed = both["mixed"][0], both["again"][0]
    assert same(whole["weights"], resumed["weights"])
    assert same(whole["sessions"], resumed["sessions"])
    assert same(whole["result"], resumed["result"])


def test_what_batch_norm_does_is_said(both: dict[str, Any]) -> None:
    assert any("each one's share of a batch" in warning for warning in both["norm"][0]["warnings"])


def test_a_batch_must_have_an_image_for_each(both: dict[str, Any]) -> None:
    for found in both["small"]:
        assert "a batch of 1 images cannot be shared by 2 processes" in found["error"]


def on_two_gpus(monkeypatch: pytest.MonkeyPatch) -> Replicas:
    replicas = Replicas()
    monkeypatch.setattr(replicas, "size", 2)
    monkeypatch.setattr(replicas, "device", torch.device("cuda"))
    return replicas


def test_on_gpus_batch_norm_is_joined_but_not_where_one_process_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = create("resnet", {**RESNET["args"], "shortcut": "B"}).train()
    plain = copy.deepcopy(net)
    replicas = on_two_gpus(monkeypatch)
    joined = replicas.synchronised(net)
    assert [id(p) for p in joined.parameters()] == [id(p) for p in net.parameters()]
    assert "from whole batches" in replicas.remarks(joined)[0]
    assert "each one's share" in replicas.remarks(plain)[0]
    x = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    by_itself = apart(copy.deepcopy(joined))
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in by_itself.modules())
    assert torch.equal(by_itself(x), plain(x))
    assert all(torch.equal(b, plain.get_buffer(name)) for name, b in by_itself.named_buffers())
    assert torch.equal(by_itself.eval()(x), plain.eval()(x))


def test_without_gpus_or_others_batch_norm_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    replicas = on_two_gpus(monkeypatch)
    monkeypatch.setattr(replicas, "device", torch.device("cpu"))
    assert replicas.synchronised(net) is net
    assert type(net[0]) is torch.nn.BatchNorm2d
    assert type(Replicas(torch.device("cuda")).synchronised(net)) is torch.nn.Sequential
    assert type(net[0]) is torch.nn.BatchNorm2d


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [("cuda:1", 4, "is one GPU, but each process takes its own"), ("cuda", 1, "process 2 of this machine has no GPU")],
)
def test_each_process_must_have_a_gpu(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, message: str) -> None:
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(OptionError, match=message), execution.crew(RunPart(device=device)):
        pass


def test_alone_nothing_is_shared() -> None:
    alone = Replicas()
    assert alone.leads
    assert alone.key == ()
    index = torch.arange(3)
    assert alone.share(index) == (index, 1.0)
    assert alone.told(lambda: 5) == 5
    assert alone.mean({"a": 2.0}) == {"a": 2.0}
