"""Recipe to dataset directory, all or nothing.

    OUTPUT/train.parquet  OUTPUT/holdout.parquet (if asked)  OUTPUT/manifest.json (last)

Everything is written into the hidden sibling `.OUTPUT.building` and renamed into place when it is complete and on
disk. A build that is killed leaves at most that sibling, which no reader takes for a dataset and the next build wipes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from derta.data.assemble import assemble, find_origins
from derta.data.manifest import MANIFEST_NAME, build_key, describe_output, make_manifest, read_manifest
from derta.data.recipe import Recipe
from derta.data.schema import Row
from derta.errors import InputError
from derta.storage.read_files import sha256_of

_OWN_FILES = {"train.parquet", "holdout.parquet", MANIFEST_NAME}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class BuildResult:
    """The manifest of the dataset, and whether it was there already."""

    manifest: dict[str, Any]
    already_built: bool


def build(
    recipe: Recipe,
    output: Path,
    workers: int = 1,
    overwrite: bool = False,
    limit: int | None = None,
    progress: bool = False,
) -> BuildResult:
    """Build `recipe` into the directory `output`. The files are the same for any number of workers.

    Raises:
        InputError: unusable recipe or rows, an output that holds something else, or one that cannot be written.
    """
    output = Path(os.path.abspath(output))
    origins = find_origins(recipe)
    key = build_key(recipe, origins, limit)
    existing = _check_output(output, key, overwrite)
    if existing is not None:
        return BuildResult(existing, already_built=True)
    with _workspace(output) as workspace:
        assembled = assemble(recipe, origins, workers, limit, progress)
        with _write_errors_named(output):
            outputs = {"train.parquet": _write_rows(assembled.train, workspace / "train.parquet", recipe)}
            if assembled.holdout:
                outputs["holdout.parquet"] = _write_rows(assembled.holdout, workspace / "holdout.parquet", recipe)
            manifest = make_manifest(recipe, key, limit, origins, assembled, outputs)
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            _write_synced(workspace / MANIFEST_NAME, text.encode("utf-8"))
            _move_into_place(workspace, output)
    return BuildResult(manifest, already_built=False)


def _check_output(output: Path, key: str, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of the same build if it is complete at `output`; None if there is room to build.

    Only a dataset directory is ever replaced, so that `overwrite=true output=~` cannot remove anything else.
    """
    for parent in output.parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"output={output}: {parent} is a file, not a directory; fix: choose another output")
    if not output.exists():
        return None
    if not output.is_dir():
        raise InputError(f"output={output}: expected a directory, found a file; fix: choose another output")
    foreign = sorted(path.name for path in output.iterdir() if path.name not in _OWN_FILES)
    if foreign:
        raise InputError(
            f"output={output}: expected a new, empty or dataset directory, found other files "
            f"({', '.join(foreign[:3])}); fix: choose another output"
        )
    manifest = read_manifest(output) if not overwrite else None
    if overwrite or not any(output.iterdir()):
        return None
    if manifest is None:
        raise InputError(
            f"output={output}: holds data without a manifest (an incomplete copy); fix: add overwrite=true"
        )
    if manifest["build_key"] != key:
        raise InputError(
            f"output={output}: holds another dataset (recipe '{manifest.get('recipe_name')}', or the same recipe with "
            "other inputs, limit or builder); fix: choose another output, or add overwrite=true to replace it"
        )
    for name, entry in manifest["outputs"].items():
        if not (output / name).is_file() or sha256_of(output / name) != entry["sha256"]:
            raise InputError(
                f"{output / name}: missing or changed since it was built; fix: add overwrite=true to rebuild"
            )
    return manifest


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """An empty hidden directory beside `output`, locked against a second build and removed whatever happens."""
    workspace = output.parent / f".{output.name}.building"
    lock_path = output.parent / f".{output.name}.lock"
    with _write_errors_named(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_path.open("w")
    with lock:
        _lock(lock, output)
        try:
            with _write_errors_named(output):
                shutil.rmtree(workspace, ignore_errors=True)
                workspace.mkdir()
            yield workspace
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
            lock_path.unlink(missing_ok=True)


def _lock(lock: TextIO, output: Path) -> None:
    """Hold the lock until the file is closed; the kernel releases it when the process is killed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"output={output}: another build is writing there; fix: wait or choose another output"
        ) from None
    except OSError as error:  # a file system without locks: two builds at once are then not noticed
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise


@contextmanager
def _write_errors_named(output: Path) -> Iterator[None]:
    """Turn a failed write into one error that says what to do."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _NO_SPACE:
            raise InputError(
                f"output={output}: no space left to write the dataset ({why}); nothing was left behind; fix: free "
                "space or raise the quota, then run the same command again"
            ) from error
        raise InputError(
            f"output={output}: cannot be written ({why}); nothing was left behind; "
            "fix: choose a directory you may write to"
        ) from error


def rows_to_table(rows: list[Row]) -> Any:
    """An Arrow table with fixed types: a column of nulls alone would otherwise lose its type."""
    import pyarrow as pa

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "source", "kind")]
        + [(name, messages) for name in ("prompt", "chosen", "rejected")]
    )
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def _write_rows(rows: list[Row], path: Path, recipe: Recipe) -> dict[str, Any]:
    """Write parquet with fixed settings, so that equal rows give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(rows_to_table(rows), sink, compression="zstd", row_group_size=10_000)
    _write_synced(path, sink.getvalue())
    return describe_output(rows, sha256_of(path), recipe.sources)


def _write_synced(path: Path, data: Any) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move_into_place(workspace: Path, output: Path) -> None:
    """Rename the finished directory to `output`; a dataset that is there is set aside first and removed after."""
    old = output.parent / f".{output.name}.replaced"
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    try:
        workspace.rename(output)
    except OSError:
        if old.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)
    folder = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
