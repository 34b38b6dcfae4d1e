"""Which checkpoints of a run are complete, and the record that makes one so.

transformers' own `get_last_checkpoint` takes the newest directory, whether or not every rank finished writing it. Here
a record is written last, after all ranks are done, with the size of every file; a directory without it, or whose files
are not those, is never resumed from.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.storage.atomic import write_json_atomically

logger = logging.getLogger(__name__)

RECORD = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(checkpoint: Path, step: int, world_size: int) -> None:
    """Record the size of every file, so that a missing or cut one is noticed. Call on one rank, after a barrier."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != RECORD
    }
    write_json_atomically(checkpoint / RECORD, {"step": step, "world_size": world_size, "files": files})


def _record(checkpoint: Path) -> dict[str, Any] | None:
    """The record of a checkpoint; None where there is none, or none that can be read."""
    try:
        record = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
        return record if {"step", "world_size"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def defect(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from; None for a complete one.

    Sizes are compared, not contents: a checkpoint of a large model is hundreds of gigabytes.
    """
    record = _record(checkpoint)
    if record is None:
        return f"is incomplete (no {RECORD})"
    for name, size in record.get("files", {}).items():
        try:
            found = (checkpoint / name).stat().st_size
        except OSError:
            return f"is damaged ({name} is missing)"
        if found != size:
            return f"is damaged ({name} has {found} of {size} bytes)"
    return None


def _numbered(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, directory) of all checkpoints, complete or not, oldest first."""
    named = ((_NAME.fullmatch(path.name), path) for path in output_dir.glob("checkpoint-*"))
    return sorted((int(match[1]), path) for match, path in named if match)


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Oldest first; incomplete and damaged ones are named in the log and left alone."""
    found = []
    for _, path in _numbered(output_dir):
        if (problem := defect(path)) is None:
            found.append(path)
        else:
            logger.warning("%s %s and is not resumed from", path.name, problem)
    return found


def newest_complete(output_dir: Path) -> Path | None:
    """What a run could go on from; says nothing of the others."""
    return next((path for _, path in reversed(_numbered(output_dir)) if defect(path) is None), None)


def remove_incomplete(output_dir: Path) -> None:
    """What a save that failed has left. Call on one rank."""
    for _, path in _numbered(output_dir):
        if _record(path) is None:
            shutil.rmtree(path, ignore_errors=True)


def remove_later(output_dir: Path, step: int) -> None:
    """Checkpoints beyond `step`, which the run is about to reach again. Call on one rank."""
    for number, path in _numbered(output_dir):
        if number > step:
            logger.info("%s is removed: the run goes on from step %d", path.name, step)
            _remove(path)


def keep_newest(output_dir: Path, limit: int | None) -> None:
    """Remove all but the newest `limit` complete checkpoints. Call on one rank, once the newest is complete.

    transformers counts incomplete ones too, and removes the old ones before the new one is known to be complete.
    """
    complete = [path for _, path in _numbered(output_dir) if defect(path) is None]
    for path in complete[: -limit if limit else 0]:
        _remove(path)


def _remove(checkpoint: Path) -> None:
    """The record first: a process killed in between leaves an incomplete checkpoint, not one that seems complete."""
    (checkpoint / RECORD).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def choose_checkpoint(
    resume: str,
    output_dir: Path,
    world_size: int,
    *,
    differences: Callable[[Path], list[str]] = lambda checkpoint: [],
    any_world_size: bool = False,
) -> Path | None:
    """The checkpoint a run continues from, or None to start at step 0.

    Args:
        resume: "auto", "never" or a checkpoint directory.
        differences: what keeps a checkpoint from being one of this run, a line each; foreign ones in the directory are
            named and left alone.
        any_world_size: another number of ranks may go on from it.

    Raises:
        InputError: the named checkpoint is not complete; it was written by another number of ranks.
    """
    if resume == "never":
        return None
    if resume == "auto":
        checkpoint = None
        for candidate in reversed(complete_checkpoints(output_dir)):
            if not (found := differences(candidate)):
                checkpoint = candidate
                break
            logger.warning("%s is of another run and is not resumed from (%s)", candidate.name, "; ".join(found[:3]))
        if checkpoint is None:
            return None
    else:
        checkpoint = Path(resume)
        if (problem := defect(checkpoint)) is not None:
            raise InputError(
                f"trainer.resume={resume}: not a complete checkpoint: it {problem}; name another one, or use "
                "trainer.resume=auto"
            )
    ranks = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))["world_size"]
    if ranks != world_size and not any_world_size:
        raise InputError(
            f"{checkpoint.name} was written by {ranks} ranks and this run has {world_size}: optimizer "
            "and random states belong to a rank; start with the same number, or in another output_dir; without "
            "DeepSpeed trainer.resume_despite=[world_size] goes on, with other random draws in dropout layers"
        )
    return checkpoint
