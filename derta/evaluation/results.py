"""results.jsonl: streamed while an evaluation runs, complete and in order when it is done.

    OUTPUT/evaluation.json             what is measured: model, data, attacks, judge (the identity), and how
    OUTPUT/results.partial-RANK.jsonl  a line per response as soon as its batch is judged
    OUTPUT/results.jsonl               all lines, in the order of sets, attacks and rows; replaces the partial files
    OUTPUT/summary.json                written last: its presence means that the evaluation is complete

A run that is killed leaves partial files, perhaps with a torn last line; the next one keeps every whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.records import Result
from derta.models.inputs import Key
from derta.storage.atomic import write_atomically

IDENTITY_FILE = "evaluation.json"
RESULTS_FILE = "results.jsonl"
PROBABILITY_FILE = "probability.json"
SUMMARY_FILE = "summary.json"
_PARTIAL = "results.partial-{rank}.jsonl"


class ResultsFolder:
    """The files of one evaluation."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def holds(self, identity: dict[str, Any]) -> bool:
        """Whether the folder holds (part of) this evaluation; False where it holds none.

        Args:
            identity: everything that decides the results.

        Raises:
            InputError: it holds results of another model, data set, judge or setting.
        """
        if not (self.path / IDENTITY_FILE).exists():
            if self.path.is_dir() and any(self.path.glob("results*.jsonl")):
                raise InputError(
                    f"output_dir={self.path} holds results, but no {IDENTITY_FILE} that says what of: "
                    "give another output_dir"
                )
            return False
        differing = sorted(_differences(self.read_json(IDENTITY_FILE).get("identity", {}), identity))
        if differing:
            raise InputError.listing(
                f"output_dir={self.path} holds the results of another evaluation; give another output_dir, or remove "
                "that folder. It differs in:",
                differing,
            )
        return True

    def claim(self, identity: dict[str, Any], run: dict[str, Any]) -> None:
        """Make the folder and write what it is for. `run`: how it was made, for the record.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(IDENTITY_FILE, {"identity": identity, "run": run})
        except OSError as error:
            raise InputError(f"output_dir={self.path} cannot be written: {error.strerror}") from error

    @property
    def complete(self) -> bool:
        return (self.path / SUMMARY_FILE).is_file()

    def read(self) -> dict[Key, Result]:
        """Every whole line there is, partial files included."""
        results = {}
        for file in self._result_files():
            for line in file.read_bytes().split(b"\n"):
                try:
                    result = Result.from_json(json.loads(line))
                except (ValueError, TypeError):  # the line that was being written when the run was killed
                    continue
                results[result.key] = result
        return results

    def append(self, rank: int, results: Iterable[Result]) -> None:
        """Add lines to this rank's partial file, on disk when it returns."""
        with (self.path / _PARTIAL.format(rank=rank)).open("a", encoding="utf-8") as stream:
            if stream.tell() and not self._ends_whole(rank):
                stream.write("\n")
            stream.writelines(json.dumps(result.to_json(), ensure_ascii=False) + "\n" for result in results)
            stream.flush()
            os.fsync(stream.fileno())

    def merge(self, order: Sequence[Key]) -> list[Result]:
        """Write results.jsonl with exactly these keys in this order, then drop the partial files."""
        found = self.read()
        results = [found[key] for key in order]
        lines = (json.dumps(result.to_json(), ensure_ascii=False) for result in results)
        write_atomically(self.path / RESULTS_FILE, "".join(f"{line}\n" for line in lines))
        for file in self.path.glob(_PARTIAL.format(rank="*")):
            file.unlink()
        return results

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / name} is not JSON: remove the folder and start again") from error

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Atomic: the file is the old one or the whole new one."""
        write_atomically(self.path / name, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    def _result_files(self) -> Iterator[Path]:
        if (self.path / RESULTS_FILE).is_file():
            yield self.path / RESULTS_FILE
        yield from sorted(self.path.glob(_PARTIAL.format(rank="*")))

    def _ends_whole(self, rank: int) -> bool:
        with (self.path / _PARTIAL.format(rank=rank)).open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"\n"


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[str]:
    """Keys whose values differ, with both values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in {*found, *wanted}:
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted:
        yield f"{key}: {_short(found)} there, {_short(wanted)} here"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}..."
