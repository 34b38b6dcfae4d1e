"""Files and folders that are the old ones or the whole new ones, whatever happens in between, with the usual
permissions.

    file      NAME.partial    --flushed to disk, renamed--> NAME
    folder    .NAME.partial/  --permissions, flushed, renamed--> NAME/      .NAME.lock keeps a second writer out
"""

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from derta.errors import InputError

PARTIAL = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


def write_atomically(path: Path, content: str | bytes, *, private: bool = False) -> None:
    """All of the file or nothing: written beside it, flushed to disk, renamed. private: for its owner alone."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            if private:
                os.fchmod(file.fileno(), 0o600)  # before there is anything to read
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode("utf-8", "backslashreplace"))  # half surrogates become JSON's escapes


def write_output(path: str | None, content: Any) -> None:
    """The JSON file that a command was asked for by output=PATH; nothing where it was not.
    Raises InputError: it cannot be written."""
    if path:
        with write_errors_named(f"output={path}"):
            write_json_atomically(Path(path), content)


@contextmanager
def new_folder(output: Path, named: str = "") -> Iterator[Path]:
    """An empty folder to fill, which becomes `output` when the body has ended well and is gone when it has not.

    What a killed process left of one is removed by the next. An `output` that is there is set aside until the new one
    stands, and then removed: the caller decides whether it may be.
    named: how the user named it, for messages ("output=DIR").
    Raises InputError: another process is filling it, or it cannot be written."""
    named = named or str(output)
    partial = output.with_name(f".{output.name}{PARTIAL}")
    lock = output.with_name(f".{output.name}.lock")
    with write_errors_named(named):
        output.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        lock_file(file, f"{named}: another process is writing there; fix: wait, or choose another place")
        try:
            with write_errors_named(named):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            yield partial
            with write_errors_named(named):
                apply_umask(partial)
                for path in (*partial.rglob("*"), partial):
                    _flush(path)
                _move_into_place(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _move_into_place(folder: Path, output: Path) -> None:
    old = output.with_name(f".{output.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    try:
        folder.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _flush(output.parent)


@contextmanager
def write_errors_named(named: str, kept: str = "nothing was left behind") -> Iterator[None]:
    """Turn a failed write into one error that says what to do. kept: what became of what was there."""
    try:
        yield
    except OSError as error:
        why, fix = os.strerror(error.errno) if error.errno else str(error), "choose a directory you may write to"
        if error.errno in _FULL:
            why = f"no space left on the disk, {why}"
            fix = "free space or raise the quota, then run the same command again"
        raise InputError(f"{named} cannot be written ({why}); {kept}; fix: {fix}") from error


def lock_file(file: IO[Any], taken: str) -> None:
    """Hold a lock until the file is closed; the kernel releases it when the process is killed.
    Raises InputError: another process holds it; `taken` is the message."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(taken) from None
    except OSError as error:  # a file system without locks: two writers at once are then not noticed
        if error.errno not in _NO_LOCKS:
            raise


def _flush(path: Path) -> None:
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def apply_umask(directory: Path) -> None:
    """Permissions below `directory`, itself included, as if open() and mkdir() had made everything: safetensors and
    tempfile make files and folders for their owner alone. Asks a new folder rather than os.umask, which changes what
    other threads make meanwhile."""
    probe = directory / ".umask"
    probe.mkdir()
    allowed = stat.S_IMODE(probe.stat().st_mode)  # with the group bit that folders of a group pass on
    probe.rmdir()
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            wanted = allowed if path.is_dir() else allowed & 0o666
            if stat.S_IMODE(path.stat().st_mode) != wanted:
                path.chmod(wanted)
