"""Recipe to dataset directory, all or nothing.

    OUTPUT/train.parquet  OUTPUT/holdout.parquet (if asked)  OUTPUT/manifest.json (last)

Everything is written into a hidden sibling and renamed into place when it is complete and on disk. A build that is
killed leaves at most that sibling, which no reader takes for a dataset and the next build wipes.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.data.assemble import assemble, find_origins
from derta.data.manifest import MANIFEST_NAME, build_key, describe_output, make_manifest, read_manifest
from derta.data.recipe import Recipe
from derta.data.schema import Row
from derta.errors import InputError
from derta.storage.atomic import new_folder, write_errors_named, write_json_atomically
from derta.storage.read_files import sha256_of

_OWN_FILES = {"train.parquet", "holdout.parquet", MANIFEST_NAME}


@dataclass(frozen=True)
class BuildResult:
    """The manifest of the dataset, and whether it was there already."""

    manifest: dict[str, Any]
    already_built: bool


def build(
    recipe: Recipe, output: Path, workers: int = 1, overwrite: bool = False, limit: int | None = None
) -> BuildResult:
    """Build `recipe` into the directory `output`. The files are the same for any number of workers.
    Raises InputError: unusable recipe or rows, an output that holds something else, or one that cannot be written."""
    output = Path(os.path.abspath(output))
    origins = find_origins(recipe)
    key = build_key(recipe, origins, limit)
    existing = _check_output(output, key, overwrite)
    if existing is not None:
        return BuildResult(existing, already_built=True)
    with new_folder(output, f"output={output}") as workspace:
        assembled = assemble(recipe, origins, workers, limit)
        with write_errors_named(f"output={output}"):
            outputs = {"train.parquet": _write_rows(assembled.train, workspace / "train.parquet", recipe)}
            if assembled.holdout:
                outputs["holdout.parquet"] = _write_rows(assembled.holdout, workspace / "holdout.parquet", recipe)
            manifest = make_manifest(recipe, key, limit, origins, assembled, outputs)
            write_json_atomically(workspace / MANIFEST_NAME, manifest)
    return BuildResult(manifest, already_built=False)


def _check_output(output: Path, key: str, overwrite: bool) -> dict[str, Any] | None:
    """The manifest of the same build if it is complete at `output`; None if there is room to build.

    Only a dataset directory is ever replaced, so that `overwrite=true output=~` cannot remove anything else.
    """

    def refused(where: str, problem: str, fix: str = "choose another output") -> InputError:
        return InputError(f"{where}: {problem}; fix: {fix}")

    named = f"output={output}"
    for parent in output.parents:
        if parent.exists() and not parent.is_dir():
            raise refused(named, f"{parent} is a file, not a directory")
    if not output.exists():
        return None
    if not output.is_dir():
        raise refused(named, "expected a directory, found a file")
    if foreign := sorted(path.name for path in output.iterdir() if path.name not in _OWN_FILES):
        found = ", ".join(foreign[:3])
        raise refused(named, f"expected a new, empty or dataset directory, found other files ({found})")
    if overwrite or not any(output.iterdir()):
        return None
    manifest = read_manifest(output)
    if manifest is None:
        raise refused(named, "holds data without a manifest (an incomplete copy)", "add overwrite=true")
    if manifest["build_key"] != key:
        other = f"recipe '{manifest.get('recipe_name')}', or the same recipe with other inputs, limit or builder"
        fix = "choose another output, or add overwrite=true to replace it"
        raise refused(named, f"holds another dataset ({other})", fix)
    for name, entry in manifest["outputs"].items():
        if not (output / name).is_file() or sha256_of(output / name) != entry["sha256"]:
            problem = "missing or changed since it was built"
            raise refused(str(output / name), problem, "add overwrite=true to rebuild")
    return manifest


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
    import pyarrow.parquet as pq

    pq.write_table(rows_to_table(rows), path, compression="zstd", row_group_size=10_000)
    return describe_output(rows, sha256_of(path), recipe.sources)
