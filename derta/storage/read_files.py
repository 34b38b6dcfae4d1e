"""Local files to records: JSONL, JSON, CSV, TSV, parquet and Arrow, each record with the line (or row) it stands on.

A `.json` file holds a list of objects, an object with such a list in it, or JSON Lines, which public datasets often
store under that name. Text files must be UTF-8. Values are never printed in errors.
"""

import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from derta.errors import InputError, first_line
from derta.storage.csv_files import csv_records
from derta.storage.json_lines import parse, parse_lines
from derta.storage.places import Place, Record, describe, refuse_twins

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
LISTS = ("completions", "responses", "results", "jailbreaks")
"""Names under which files that are one object hold the list of their records."""
# what a saved dataset keeps beside its Arrow files, and a built one beside its parquet files
_DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "manifest.json")
_BOM = b"\xef\xbb\xbf"


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes. Raises InputError: the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def find_files(path: str, folders: list[Path]) -> list[Path]:
    """The data files that `path` (a file, a directory or a glob pattern) names, sorted by name.

    A relative path is looked up in each of `folders` in order (recipe file first, then working directory).
    Raises InputError: nothing there, no data file in it, or files of several kinds."""
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
    there = what_is_at(path)
    if there == "a file":
        return [path]
    if there == "a directory":
        files = [file for file in path.rglob("*") if file.is_file()]
        files = [file for file in files if file.name not in _DESCRIPTIONS]
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True) if what_is_at(Path(name)) == "a file"]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def read_values(path: Path) -> Iterator[tuple[Place, Any]]:
    """What stands in one file, in order: objects, or other JSON values.
    Raises InputError: not readable, not UTF-8, malformed JSON or CSV, not a parquet or Arrow file, an empty file, an
    unknown suffix."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        fix = f"unpack it: gunzip {path.name}" if suffix == ".gz" else "convert the file"
        raise InputError(f"{path}: expected one of {', '.join(SUFFIXES)}, found '{path.suffix}'; fix: {fix}")
    found: Iterator[tuple[Place, Any]]
    if suffix in (".parquet", ".arrow"):
        found = _rows(path, _parquet_batches if suffix == ".parquet" else _arrow_batches)
    elif suffix in (".csv", ".tsv"):
        found = ((record.place, record.values) for record in csv_records(path, read_text(path)))
    else:
        found = (_json if suffix == ".json" else _json_lines)(path, read_text(path))
    empty = True
    for place, value in found:
        empty = False
        yield place, value
    if empty:
        raise InputError(f"{path}: expected at least one record, found none; fix: give a file with data")


def read_file(path: Path) -> Iterator[Record]:
    """The records of one file in order. Raises InputError: as `read_values`; a value that is no object."""
    for place, value in read_values(path):
        if not isinstance(value, dict):
            raise InputError(
                f"{place}: expected a JSON object, found {describe(value)}; fix: correct or remove the {place.unit}"
            )
        yield Record(place, value)


def read_text(path: Path) -> str:
    """The text of a file.
    Raises InputError: it cannot be read, or is not UTF-8; the line of the first bad byte is named."""
    try:
        data = path.read_bytes().removeprefix(_BOM)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: expected UTF-8 text, found a byte that is not (0x{data[error.start]:02x}); "
            f"fix: convert the file, for example with: iconv -f LATIN1 -t UTF-8 {path.name}"
        ) from None


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{path}: cannot be read ({reason}); fix: check that it is a file you may read")


def what_is_at(path: Path) -> str:
    """ "a file", "a directory" or "nothing"; a name that no file can have (too long, say) is nothing."""
    try:
        return "a file" if path.is_file() else "a directory" if path.is_dir() else "nothing"
    except (OSError, ValueError):
        return "nothing"


def _json_lines(path: Path, text: str) -> Iterator[tuple[Place, Any]]:
    """JSON Lines; every malformed line of the file is listed in one error."""
    lines = list(parse_lines(text))
    bad = [
        f"{Place(str(path), number)}: expected one JSON object per line, found {_wrong(value)}; fix: correct or remove "
        "the line"
        for number, value in lines
        if isinstance(value, ValueError)
    ]
    if bad:
        raise InputError.listing(f"{path} is not valid JSON Lines:", bad)
    return ((Place(str(path), number), value) for number, value in lines)


def _wrong(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"malformed JSON ({error.msg} at column {error.colno})"
    return f"JSON that cannot be used ({str(error).partition(':')[0]})"


def _json(path: Path, text: str) -> Iterator[tuple[Place, Any]]:
    """A list, an object that holds one, or JSON Lines under the name .json."""
    if not text.strip():
        return iter(())
    try:
        whole = parse(text)
    except ValueError as error:
        if not text.lstrip().startswith("[") and not isinstance(next(parse_lines(text), (0, error))[1], ValueError):
            return _json_lines(path, text)
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(
            f"{path}{line}: expected a JSON list of objects, found {_wrong(error)}; fix: correct the file"
        ) from None
    if isinstance(whole, dict):
        whole = next((whole[name] for name in LISTS if isinstance(whole.get(name), list)), [whole])
    if not isinstance(whole, list):
        raise InputError(f"{path}: expected a JSON list of objects, found {describe(whole)}; fix: correct the file")
    return ((Place(str(path), number, "item"), value) for number, value in enumerate(whole, start=1))


def _rows(path: Path, batches: Callable[[Path], Iterator[Any]]) -> Iterator[tuple[Place, Any]]:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches(path):
            refuse_twins(str(path), batch.schema.names)
            for values in batch.to_pylist():
                number += 1
                yield Place(str(path), number, "row"), values
    except InputError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, ValueError) as error:
        kind = "parquet" if path.suffix.lower() == ".parquet" else "Arrow"
        where = f" behind row {number}" if number else ""
        reason = type(error).__name__ if isinstance(error, UnicodeDecodeError) else first_line(error)[:120]
        raise InputError(f"{path}: not a readable {kind} file{where} ({reason}); fix: copy it again") from None


def _parquet_batches(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches()


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Both Arrow formats: the stream that `datasets` saves, and the IPC file (feather)."""
    import pyarrow as pa

    with pa.OSFile(str(path), "rb") as source:
        try:
            stream: Any = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            whole: Any = pa.ipc.open_file(source)
            yield from (whole.get_batch(index) for index in range(whole.num_record_batches))
            return
        yield from stream
