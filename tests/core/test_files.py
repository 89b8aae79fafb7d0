import errno
import os

import pytest

from robustq.core import files
from robustq.core.errors import OutputError


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_write_and_replace(tmp_path):
    place = tmp_path / "out.bin"
    assert files.write(place, b"one") == 3
    assert files.write(place, b"other", force=True) == 5
    assert place.read_bytes() == b"other"
    assert names(tmp_path) == ["out.bin"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        files.write(tmp_path / "out.bin", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to(tmp_path / "real.bin")
    files.write(tmp_path / "link.bin", b"new", force=True)
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_existing_file_needs_force(tmp_path):
    place = tmp_path / "out.bin"
    place.write_bytes(b"keep")
    with pytest.raises(OutputError, match=r"out\.bin exists already.*\n.*--force"):
        files.write(place, b"lose")
    assert place.read_bytes() == b"keep"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder"),
        ("missing/out.bin", "missing does not exist"),
        ("file/out.bin", "file is not a folder"),
        ("n" * 300, "name too long"),
    ],
)
def test_impossible_places(tmp_path, name, message):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=message):
        files.check_output(tmp_path / name)


def test_read_only_folder(tmp_path, monkeypatch):
    # The superuser may write anywhere, so the answer of the system is put in its mouth.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="is read-only"):
        files.check_output(tmp_path / "out.bin")


@pytest.mark.parametrize("when", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, r"out\.bin.*No space left.*\nFree some space"),
        (OSError(errno.EACCES, "Permission denied"), OutputError, r"out\.bin.*Permission denied"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_nothing_half_written(tmp_path, monkeypatch, when, failure, raised, message):
    place = tmp_path / "out.bin"
    place.write_bytes(b"old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, when, fail)
    with pytest.raises(raised, match=message):
        files.write(place, b"new", force=True)
    assert names(tmp_path) == ["out.bin"]
    assert place.read_bytes() == b"old"


def test_devices_are_written_not_replaced():
    assert files.write(os.devnull, b"gone") == 4
    assert not os.path.isfile(os.devnull)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_device():
    with pytest.raises(OutputError, match=r"/dev/full cannot be written: No space left"):
        files.write("/dev/full", b"x" * 100_000)
