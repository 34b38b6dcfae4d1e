"""JSON Lines: one parser for files of any origin, and logs of our own, which grow by whole lines.

A process that is killed while it writes may leave half a line at the end of its log. Readers leave it out, and the next
writer cuts it off, or gives a whole line the line end that it lacks.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from derta.storage.atomic import write_atomically


def parse_lines(text: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of every line that is not blank; the value of a line that is no JSON is its ValueError."""
    # split at "\n" only: str.splitlines would also split at U+2028, which may stand inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse(line)
            except ValueError as error:
                yield number, error


def parse(text: str | bytes) -> Any:
    """A JSON value.
    Raises ValueError: malformed, a key twice in one object (the first value would be lost), nested too deeply, or a
    number of thousands of digits."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log, in order, without what is left of a line that was never finished; none where there is no
    such file."""
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return (value for _, value in parse_lines(content) if isinstance(value, dict))


def append_lines(path: Path, entries: Iterable[Mapping[str, Any]], *, durable: bool = True) -> None:
    """Add whole lines to a log. durable: they are on disk when it returns, whatever happens to the machine."""
    with path.open("a+b") as file:
        _end_with_a_whole_line(file)
        file.write(_as_lines(entries))
        file.flush()
        if durable:
            os.fsync(file.fileno())


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]], *, private: bool = False) -> None:
    """The whole log anew: the old file, or all of the new one. private: nobody but its owner may read it."""
    write_atomically(path, _as_lines(entries), private=private)


def _as_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return lines.encode("utf-8", "backslashreplace")  # half surrogates become JSON's escapes


def _end_with_a_whole_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    tail = b""
    while size and b"\n" not in tail:  # read backwards, a block at a time
        step = min(size, 1 << 16)
        size -= step
        file.seek(size)
        tail = file.read(step) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return
    try:
        parse(torn)
        file.write(b"\n")
    except ValueError:
        file.truncate(file.seek(0, os.SEEK_END) - len(torn))
