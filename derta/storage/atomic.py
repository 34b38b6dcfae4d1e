"""Files that are the old one or the whole new one, whatever happens in between, with the usual permissions."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_atomically(path: Path, text: str) -> None:
    """All of the file or nothing: written beside it, flushed to disk, renamed."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


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
