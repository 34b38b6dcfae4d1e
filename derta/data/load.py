"""Rows for training: from a built dataset, or straight from a file in one of two public formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.data.assemble import read_source, warn_of_raw_text
from derta.data.build import rows_to_table
from derta.data.manifest import MANIFEST_NAME, read_manifest
from derta.data.recipe import Filters, Source
from derta.errors import InputError
from derta.models.messages import TEXT_ROLE
from derta.storage.read_files import sha256_of, what_is_at

if TYPE_CHECKING:
    import datasets

# data.format -> the adapter that reads the file
FILE_FORMATS = {"reference_jsonl": "derta_train", "preference": "preference"}
FORMATS = ("derta", *FILE_FORMATS)


@dataclass(frozen=True)
class LoadedRows:
    """Rows in the schema of derta/data/schema.py, the sha256 of their file, and its manifest if it has one."""

    dataset: datasets.Dataset
    sha256: str
    manifest: dict[str, Any] | None


def load_rows(path: str | Path, format: str = "derta", split: str = "train") -> LoadedRows:
    """Load rows from a built dataset directory (`format="derta"`) or from one JSONL, JSON, CSV, parquet or Arrow file.

    Rows of a file are normalised and validated as in a build, keep their order, and none is dropped.
    Raises InputError: nothing there, an incomplete or changed dataset, no rows, or unusable rows (all listed)."""
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise InputError(f"data.format={format}: unknown; fix: use one of {', '.join(FORMATS)}")
    if what_is_at(path) == "nothing":
        raise InputError(
            f"data.path={path}: expected a dataset, found nothing; fix: build one with "
            f"`python launch/build_data.py recipe=NAME output={path}`, or correct the path"
        )
    if format == "derta":
        return _load_built(path, split)
    named = f"data.path={path}"
    if path.is_dir():
        raise InputError(f"{named}: data.format={format} reads one file; fix: give the file, or data.format=derta")
    if split != "train":
        raise InputError(f"{named}: a file has only the split 'train'; fix: give the '{split}' rows as their own file")
    keep_all = Filters(duplicates="keep")
    source = Source(name=path.stem, adapter=FILE_FORMATS[format], path=str(path), filters=keep_all)
    return LoadedRows(_as_dataset(rows_to_table(read_source(source)), path), sha256_of(path), None)


def dataset_splits(path: str | Path) -> set[str]:
    """Names of the splits of a built dataset; none for a file, or for what is no dataset."""
    path = Path(path).expanduser()
    manifest = read_manifest(path) if path.is_dir() else None
    return {Path(file).stem for file in manifest["outputs"]} if manifest else set()


def _load_built(path: Path, split: str) -> LoadedRows:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    named = f"data.path={path}"
    if not path.is_dir():
        fix = "set data.format=preference or data.format=reference_jsonl"
        raise InputError(f"{named}: data.format=derta reads a built directory, found a file; fix: {fix}")
    manifest = read_manifest(path)
    if manifest is None:
        what = "an incomplete build, or not a dataset"
        raise InputError(f"{named}: no {MANIFEST_NAME} ({what}); fix: build it again")
    file = path / f"{split}.parquet"
    if file.name not in manifest["outputs"]:
        there = ", ".join(Path(name).stem for name in manifest["outputs"])
        raise InputError(f"{named}: no split '{split}', only {there}; fix: set holdout: in the recipe, or use these")
    digest = sha256_of(file) if file.is_file() else ""
    if digest != manifest["outputs"][file.name]["sha256"]:
        problem = "missing or changed since it was built (sha256 differs)"
        raise InputError(f"{file}: {problem}; fix: build the dataset again")
    table = pq.read_table(file)
    strings = [entry["name"] for entry in manifest.get("sources", []) if entry["adapter"] == "preference"]
    if strings:
        roles = pc.struct_field(pc.list_element(table["prompt"], 0), "role")
        raw = pc.and_(pc.equal(roles, TEXT_ROLE), pc.is_in(table["source"], pa.array(strings)))
        warn_of_raw_text(path, pc.sum(raw).as_py() or 0, table.num_rows)
    return LoadedRows(_as_dataset(table, path), digest, manifest)


def _as_dataset(table: Any, path: Path) -> datasets.Dataset:
    """An in-memory dataset of an Arrow table."""
    import datasets

    if not table.num_rows:
        raise InputError(f"data.path={path}: holds no rows; fix: build it with data")
    return datasets.Dataset(datasets.table.InMemoryTable(table))
