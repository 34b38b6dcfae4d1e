"""All or nothing, for files and folders; and one writer at a time."""

import errno
import fcntl
import json
import os
import stat

import pytest

from derta.errors import InputError
from derta.storage.atomic import new_folder, write_atomically, write_errors_named, write_json_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    path = tmp_path / "file.json"
    path.write_text('{"old": 1}')
    with pytest.raises(OSError):
        write_json_atomically(path, {"new": 2})
    assert names(tmp_path) == ["file.json"] and json.loads(path.read_text()) == {"old": 1}


def test_text_and_bytes_are_written(tmp_path):
    write_atomically(tmp_path / "a", "é\n")
    write_atomically(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a").read_bytes() == "é\n".encode() and (tmp_path / "b").read_bytes() == b"\x00\xff"


def test_a_text_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomically(tmp_path / "a", "half \ud83d")
    assert names(tmp_path) == []


def test_a_folder_appears_whole_with_the_usual_permissions(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "inner").mkdir(mode=0o700)
        (folder / "inner" / "weights").write_text("x")
        (folder / "inner" / "weights").chmod(0o600)
        assert not (tmp_path / "deep" / "out").exists()
    (tmp_path / "usual").write_text("")
    weights = tmp_path / "deep" / "out" / "inner" / "weights"
    assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert names(tmp_path / "deep") == ["out"]


def test_a_folder_replaces_what_is_there_when_it_is_whole(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(KeyError), new_folder(tmp_path / "out"):
        raise KeyError
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]
    with new_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["new"]


def test_what_a_killed_writer_left_is_wiped(tmp_path):
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("")
    with new_folder(tmp_path / "out") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["out"]


def test_a_second_writer_is_refused(tmp_path):
    with (tmp_path / ".out.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="output=out: another process is writing there"):
            with new_folder(tmp_path / "out", "output=out"):
                raise AssertionError("never gets here")
    with new_folder(tmp_path / "out"):
        pass


def test_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path, full_disk):
    with pytest.raises(InputError, match=r"output=out cannot be written \(no space left on the disk, .*free space"):
        with new_folder(tmp_path / "out", "output=out"):
            pass
    assert names(tmp_path) == []


def test_other_write_errors_are_named():
    with pytest.raises(InputError, match=r"x cannot be written \(Permission denied\); the rest is kept; fix: choose"):
        with write_errors_named("x", "the rest is kept"):
            raise PermissionError(errno.EACCES, "denied")
