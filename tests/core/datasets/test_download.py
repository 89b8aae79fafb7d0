import functools
import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robustq.core.datasets import load
from robustq.core.datasets.download import cache_folder
from robustq.core.datasets.idx import Mnist
from robustq.core.errors import DataError


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return cache_folder()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that is served in place of MNIST's mirror, holding a test split of two images."""
    folder = tmp_path / "served"
    folder.mkdir()
    shape = struct.pack(">3I", 2, 28, 28)
    files = {
        "t10k-images-idx3-ubyte.gz": b"\0\0\x08\x03" + shape + np.full(1568, 200, np.uint8).tobytes(),
        "t10k-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + struct.pack(">I", 2) + bytes([7, 2]),
    }
    for name, content in files.items():
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    sums = {name: hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() for name in files}
    monkeypatch.setattr(Mnist, "checksums", sums)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as running:
        monkeypatch.setattr(Mnist, "mirrors", (f"http://127.0.0.1:{running.server_port}/",))
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        running.shutdown()
        thread.join()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_files_are_fetched_once(server: Path, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert load("mnist").labels.tolist() == [7, 2]
    assert files_in(cache) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    for path in server.iterdir():
        path.unlink()
    assert load("mnist").labels.tolist() == [7, 2]
    assert capfd.readouterr() == ("", "")


def test_a_given_folder_comes_before_the_cache(server: Path, cache: Path, tmp_path: Path) -> None:
    load("mnist")
    own = tmp_path / "own"
    own.mkdir()
    np.savez(own / "mnist.npz", x_test=np.full((1, 28, 28), 255, np.uint8), y_test=np.array([3]))
    assert load("mnist", directory=own).labels.tolist() == [3]
    (own / "mnist.npz").unlink()
    assert load("mnist", directory=own).labels.tolist() == [7, 2]


def test_another_mirror_helps_out(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mnist, "mirrors", ("http://127.0.0.1:9/", *Mnist.mirrors))
    assert len(load("mnist")) == 2


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda folder: (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"other"), "has the wrong checksum"),
        (lambda folder: (folder / "t10k-images-idx3-ubyte.gz").unlink(), "answered 404"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing_behind(server: Path, cache: Path, break_it, reason: str) -> None:
    break_it(server)
    with pytest.raises(DataError, match=reason) as caught:
        load("mnist")
    for part in ("mnist", "t10k-images-idx3-ubyte.gz", str(cache), "test split"):
        assert part in caught.value.problem
    assert "--data-dir" in caught.value.remedy
    assert files_in(cache) == []


def test_without_a_network(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mnist, "mirrors", ("http://127.0.0.1:9/",))
    with pytest.raises(DataError, match="cannot be reached") as caught:
        load("mnist", "train", directory=tmp_path)
    for part in ("train-labels-idx1-ubyte.gz", str(tmp_path), str(cache)):
        assert part in caught.value.problem
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_made(server: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot be written"):
        load("mnist")
