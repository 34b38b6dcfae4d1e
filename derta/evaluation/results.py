"""results.jsonl: streamed while an evaluation runs, complete and in order when it is done.

    OUTPUT/evaluation.json             what is measured: model, data, attacks, judge (the identity), and how
    OUTPUT/results.partial-RANK.jsonl  a line per response as soon as its batch is judged
    OUTPUT/results.jsonl               all lines, in the order of sets, attacks and rows; replaces the partial files
    OUTPUT/summary.json                written last: its presence means that the evaluation is complete

A run that is killed leaves partial files, perhaps with a torn last line; the next one keeps every whole line.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.evaluation.provenance import typed_command
from derta.evaluation.records import Result
from derta.evaluation.summary import SUMMARY_FILE
from derta.models.inputs import Key
from derta.storage.claim import Claim
from derta.storage.json_lines import append_lines, read_lines, write_lines

IDENTITY_FILE = "evaluation.json"
RESULTS_FILE = "results.jsonl"
_PARTIAL = "results.partial-{rank}.jsonl"


class ResultsFolder:
    """The files of one evaluation."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def holds(self, identity: dict[str, Any]) -> bool:
        """Whether the folder holds (part of) this evaluation; False where it holds none. identity: everything that
        decides the results. Raises InputError: it holds results of another model, data set, judge or setting."""
        return self._claim(identity).held()

    def claim(self, identity: dict[str, Any], run: dict[str, Any], model: str = "") -> None:
        """Make the folder and write what it is for. run: how it was made, for the record. model: what was evaluated; a
        directory's whole path is kept here, as is the command as it was typed; both stand in no file that others get.
        Raises InputError: it cannot be written."""
        directory = str(Path(model).resolve()) if model and Path(model).is_dir() else None
        self._claim(identity).take(run=run, model_directory=directory, command=typed_command(sys.argv))

    def _claim(self, identity: dict[str, Any]) -> Claim:
        file = self.path / IDENTITY_FILE
        return Claim(file, identity, work="evaluation", named=f"output_dir={self.path}", others="results*.jsonl")

    @property
    def model_directory(self) -> Path | None:
        """Where the evaluated model lay; None for one of a hub, and in results of earlier versions."""
        if not (self.path / IDENTITY_FILE).is_file():
            return None
        directory = self._claim({}).content().get("model_directory")
        return Path(directory) if directory else None

    @property
    def complete(self) -> bool:
        return (self.path / SUMMARY_FILE).is_file()

    def read(self) -> dict[Key, Result]:
        """Every whole line there is, partial files included."""
        results = {}
        for file in (self.path / RESULTS_FILE, *sorted(self.path.glob(_PARTIAL.format(rank="*")))):
            for line in read_lines(file):
                try:
                    result = Result.from_json(line)
                except (ValueError, TypeError, LookupError) as error:
                    raise InputError(
                        f"{file} holds a line that is no response of an evaluation ({type(error).__name__}): remove "
                        "the folder and start again"
                    ) from None
                results[result.key] = result
        return results

    def append(self, rank: int, results: Iterable[Result]) -> None:
        """Add lines to this rank's partial file, on disk when it returns."""
        append_lines(self.path / _PARTIAL.format(rank=rank), (result.to_json() for result in results))

    def merge(self, order: Sequence[Key]) -> list[Result]:
        """Write results.jsonl with exactly these keys in this order, then drop the partial files."""
        found = self.read()
        results = [found[key] for key in order]
        write_lines(self.path / RESULTS_FILE, (result.to_json() for result in results))
        for file in self.path.glob(_PARTIAL.format(rank="*")):
            file.unlink()
        return results
