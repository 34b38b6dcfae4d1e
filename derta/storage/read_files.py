"""Local files to records: JSONL, JSON, CSV, parquet and Arrow, each record with the line (or row) it stands on.

A `.json` file that starts with "[" is one list of objects; otherwise it is read as JSON Lines, which public datasets
often store under that name. Text files must be UTF-8. Values are never printed in errors.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.storage.places import Place, Record, describe

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
# what a saved dataset keeps beside its Arrow files, and a built one beside its parquet files
_DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "manifest.json")
_BOM = b"\xef\xbb\xbf"


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); fix: check that it is a file you may read"
        ) from None
    return digest.hexdigest()


def find_files(path: str, folders: list[Path]) -> list[Path]:
    """The data files that `path` (a file, a directory or a glob pattern) names, sorted by name.

    A relative path is looked up in each of `folders` in order (recipe file first, then working directory).

    Raises:
        InputError: nothing there, no data file in it, or files of several kinds.
    """
    candidates = [Path(path).expanduser()] if Path(path).expanduser().is_absolute() else [f / path for f in folders]
    for candidate in candidates:
        found = _files_at(candidate)
        if found:
            suffixes = sorted({file.suffix.lower() for file in found})
            if len(suffixes) > 1:
                raise InputError(
                    f"{candidate}: expected data files of one kind, found {', '.join(suffixes)}; "
                    "fix: name one kind with a pattern, for example path: DIR/*.jsonl"
                )
            return found
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise InputError(
        f"path '{path}': expected a {', '.join(SUFFIXES)} file, a directory of them or a pattern, found nothing "
        f"(looked at {tried}); fix: correct the path, which is relative to the recipe file or the working directory"
    )


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        files = [file for file in files if file.name not in _DESCRIPTIONS]
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def read_file(path: Path) -> Iterator[Record]:
    """The records of one file in order.

    Raises:
        InputError: not UTF-8, malformed JSON or CSV, not a parquet or Arrow file, an empty file, an unknown suffix.
    """
    readers = {
        ".json": _read_json,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".arrow": _read_arrow,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, found '{path.suffix}'; fix: convert the file")
    empty = True
    for record in reader(path):
        empty = False
        yield record
    if empty:
        raise InputError(f"{path}: expected at least one record, found none; fix: give a file with data")


def _decode(path: Path, data: bytes) -> str:
    """Text of a UTF-8 file, or an error that names the line of the first bad byte."""
    try:
        return data.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.removeprefix(_BOM)[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: expected UTF-8 text, found a byte that is not (0x{error.object[error.start]:02x}); "
            f"fix: convert the file, for example with: iconv -f LATIN1 -t UTF-8 {path.name}"
        ) from None


def _read_json_lines(path: Path) -> Iterator[Record]:
    """JSON Lines; every malformed line of the file is listed in one error."""
    bad: list[str] = []
    good: list[Record] = []
    # split at "\n" only: str.splitlines would also split at U+2028, which may stand inside a JSON string
    for number, line in enumerate(_decode(path, path.read_bytes()).split("\n"), start=1):
        if not line.strip():
            continue
        place = Place(str(path), number)
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(
                f"{place}: expected one JSON object per line, found malformed JSON ({error.msg} at column "
                f"{error.colno}); fix: correct or remove the line"
            )
            continue
        if not isinstance(value, dict):
            bad.append(f"{place}: expected a JSON object, found {describe(value)}; fix: correct or remove the line")
            continue
        good.append(Record(place, value))
    if bad:
        raise InputError.listing(f"{path} is not valid JSON Lines:", bad)
    yield from good


def _read_json(path: Path) -> Iterator[Record]:
    text = _decode(path, path.read_bytes())
    if not text.lstrip().startswith("["):
        yield from _read_json_lines(path)
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: expected a JSON list of objects, found malformed JSON "
            f"({error.msg} at column {error.colno}); fix: correct the file"
        ) from None
    for number, value in enumerate(values, start=1):
        place = Place(str(path), number, "item")
        if not isinstance(value, dict):
            raise InputError(f"{place}: expected a JSON object, found {describe(value)}; fix: correct or remove it")
        yield Record(place, value)


def _read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)  # responses are longer than the module's default of 128 KiB
    reader = csv.reader(io.StringIO(_decode(path, path.read_bytes()), newline=""), strict=True)
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        if twice := sorted({name for name in header if name and header.count(name) > 1}):
            raise InputError(
                f"{path}, line 1: expected every column once, found {', '.join(twice)} more than once; fix: rename or "
                "remove the others"
            )
        for cells in reader:
            place = Place(str(path), line)
            line = reader.line_num + 1  # a quoted cell may span lines, so the next record starts after them
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{place}: expected {len(header)} cells as in the header, found {len(cells)}; "
                    "fix: quote cells that hold commas or line breaks"
                )
            yield Record(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: malformed CSV ({error}); fix: correct the quoting") from None


def _read_parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _records_of(path, file.iter_batches())
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable parquet file ({_first_line(error)}); fix: copy it again") from None


def _read_arrow(path: Path) -> Iterator[Record]:
    """Both Arrow formats: the stream that `datasets` saves, and the IPC file (feather)."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path), "rb") as source:
            try:
                reader: Any = pa.ipc.open_stream(source)
                batches: Iterator[Any] = iter(reader)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            yield from _records_of(path, batches)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a readable Arrow file ({_first_line(error)}); fix: copy it again") from None


def _records_of(path: Path, batches: Iterator[Any]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield Record(Place(str(path), number, "row"), values)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:120]
