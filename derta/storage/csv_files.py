"""CSV and TSV, read and written; the only module that knows the format."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.storage.places import Place, Record, refuse_twins

_LARGEST_CELL = 2**31 - 1  # the module's own limit is 128 KiB; responses are longer


def csv_records(path: Path, text: str) -> Iterator[Record]:
    """The rows of a file (of a .tsv: separated by tabs), each with the line on which it begins.
    Raises InputError: a header that names a column twice or is separated otherwise, a row with more or fewer cells than
    the header, wrong quoting."""
    csv.field_size_limit(_LARGEST_CELL)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        _check_header(path, header, delimiter)
        line = reader.line_num + 1
        for cells in reader:
            place = Place(str(path), line)
            line = reader.line_num + 1  # a quoted cell may span lines, so the next record starts after them
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{place}: expected {len(header)} cells as in the header, found {len(cells)}; "
                    f"fix: quote cells that hold {'tabs' if delimiter == chr(9) else 'commas'} or line breaks"
                )
            yield Record(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: malformed CSV ({error}); fix: correct the quoting") from None


def _check_header(path: Path, header: list[str], delimiter: str) -> None:
    refuse_twins(f"{path}, line 1", list(filter(None, header)))
    others = [name for sign, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas")) if sign in "".join(header)]
    if len(header) == 1 and others:
        expected, remedy = ("tabs", ".csv") if delimiter == "\t" else ("commas", ".tsv")
        fix = f"name the file *{remedy}" if others[0] != "semicolons" else f"save it with {expected}"
        raise InputError(f"{path}, line 1: expected columns separated by {expected}, found {others[0]}; fix: {fix}")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under a header with the keys of the first one; "" where there are none."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
