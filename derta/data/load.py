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

    Raises:
        InputError: nothing there, an incomplete or changed dataset, no rows, or unusable rows (all listed).
    """
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
    if path.is_dir():
        raise InputError(
            f"data.path={path}: data.format={format} reads one file; fix: give the file, or data.format=derta"
        )
    if split != "train":
        raise InputError(
            f"data.path={path}: a file has only the split 'train'; fix: give the '{split}' rows as their own file"
        )
    return _load_file(path, FILE_FORMATS[format])


def dataset_splits(path: str | Path) -> set[str]:
    """Names of the splits of a built dataset; none for a file, or for what is no dataset."""
    path = Path(path).expanduser()
    manifest = read_manifest(path) if path.is_dir() else None
    return {Path(file).stem for file in manifest["outputs"]} if manifest else set()


def _load_built(path: Path, split: str) -> LoadedRows:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_dir():
        raise InputError(
            f"data.path={path}: data.format=derta reads a built directory, found a file; fix: set "
            "data.format=preference or data.format=reference_jsonl"
        )
    manifest = read_manifest(path)
    if manifest is None:
        raise InputError(
            f"data.path={path}: no {MANIFEST_NAME} (an incomplete build, or not a dataset); fix: build it again"
        )
    name = f"{split}.parquet"
    if name not in manifest["outputs"]:
        there = ", ".join(Path(file).stem for file in manifest["outputs"])
        raise InputError(
            f"data.path={path}: no split '{split}', only {there}; fix: set holdout: in the recipe, or use these"
        )
    file = path / name
    digest = sha256_of(file) if file.is_file() else ""
    if digest != manifest["outputs"][name]["sha256"]:
        raise InputError(
            f"{file}: missing or changed since it was built (sha256 differs); fix: build the dataset again"
        )
    try:
        table = pq.read_table(file)
    except pa.ArrowInvalid:
        raise InputError(f"{file}: not a readable parquet file; fix: build the dataset again") from None
    strings = [entry["name"] for entry in manifest.get("sources", []) if entry["adapter"] == "preference"]
    if strings:
        roles = pc.struct_field(pc.list_element(table["prompt"], 0), "role")
        raw = pc.and_(pc.equal(roles, TEXT_ROLE), pc.is_in(table["source"], pa.array(strings)))
        warn_of_raw_text(path, pc.sum(raw).as_py() or 0, table.num_rows)
    return LoadedRows(_as_dataset(table, path), digest, manifest)


def _load_file(path: Path, adapter: str) -> LoadedRows:
    source = Source(name=path.stem, adapter=adapter, path=str(path), filters=Filters(duplicates="keep"))
    table = rows_to_table(read_source(source))
    return LoadedRows(_as_dataset(table, path), sha256_of(path), None)


def _as_dataset(table: Any, path: Path) -> datasets.Dataset:
    """An in-memory dataset of an Arrow table."""
    import datasets

    if not table.num_rows:
        raise InputError(f"data.path={path}: holds no rows; fix: build it with data")
    return datasets.Dataset(datasets.table.InMemoryTable(table))
