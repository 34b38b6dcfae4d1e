"""The rule that chooses a direction among candidates, and tables of candidates as files.

    candidate (position, layer): bypass | induce | KL  --drop invalid ones-->  survivors  --least bypass-->  chosen

bypass: mean refusal metric of harmful prompts under ablation, the lower the better. induce: mean refusal metric of
harmless prompts under addition. KL: of the next token on harmless prompts, model against ablated model, in nats.
Files have the layout of `direction_evaluations.json` in github.com/andyrdt/refusal_direction (commit 9d852fa), whose
published choices and surviving sets the rule reproduces. Rule: arXiv 2406.11717, appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derta.config.direction import SelectionConfig
from derta.errors import InputError
from derta.storage.atomic import write_json_atomically
from derta.storage.places import describe
from derta.storage.read_files import read_file

_COLUMNS = {
    "position": "position",
    "layer": "layer",
    "bypass": "refusal_score",
    "induce": "steering_score",
    "kl": "kl_div_score",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """position: from the end of the prompt, -1 is its last token. layer: block input, from 0. NaN: not measurable."""

    position: int
    layer: int
    bypass: float
    induce: float
    kl: float

    @property
    def place(self) -> str:
        return f"position {self.position}, layer {self.layer}"

    def to_row(self) -> dict[str, Any]:
        """A row of the published layout; NaN as null, which every JSON reader understands."""
        values = ((column, getattr(self, name)) for name, column in _COLUMNS.items())
        return {column: None if math.isnan(value) else value for column, value in values}


@dataclass(frozen=True, slots=True)
class Selection:
    """chosen: None where no candidate is valid. survivors: valid ones, best first. dropped: place -> reasons."""

    chosen: Candidate | None
    survivors: tuple[Candidate, ...]
    dropped: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "position": chosen.position if chosen else None,
            "layer": chosen.layer if chosen else None,
            "survivors": len(self.survivors),
        }


def select(candidates: Sequence[Candidate], layers: int, rule: SelectionConfig) -> Selection:
    """The valid candidate with the least bypass score; the first of them in a tie.

    Args:
        layers: how many the model has. The topmost `floor(...)` boundary is the published code's: candidates lie
            below layer floor((1 - top_layers) * layers).
    """
    survivors, dropped = [], {}
    for candidate in candidates:
        if reasons := _reasons(candidate, layers, rule):
            dropped[candidate.place] = reasons
        else:
            survivors.append(candidate)
    survivors.sort(key=lambda candidate: candidate.bypass)
    return Selection(survivors[0] if survivors else None, tuple(survivors), dropped)


def _reasons(candidate: Candidate, layers: int, rule: SelectionConfig) -> list[str]:
    """Why a candidate is not valid; empty if it is."""
    if any(math.isnan(value) for value in (candidate.bypass, candidate.induce, candidate.kl)):
        return ["not measurable: the two means are equal there, or a score is NaN"]
    found = []
    end = math.floor(round((1 - rule.top_layers) * layers, 9))
    if candidate.layer >= end:
        found.append(f"layer {candidate.layer} is in the top {rule.top_layers:.0%} of {layers}")
    if candidate.kl > rule.kl_max:
        found.append(f"KL {candidate.kl:.3g} > {rule.kl_max:g}: ablation changes harmless answers")
    if candidate.induce < rule.induce_min:
        found.append(f"induce {candidate.induce:.3g} < {rule.induce_min:g}: added, it does not make the model refuse")
    return found


def read_table(path: str | Path) -> list[Candidate]:
    """Candidates from a file in the published layout.

    Raises:
        InputError: no such file, no JSON list of candidates, missing or unreadable numbers (all are listed), a place
            named twice.
    """
    problems: list[str] = []
    candidates: dict[tuple[int, int], Candidate] = {}
    for record in read_file(Path(path)):
        try:
            candidate = _candidate(record.values)
        except ValueError as error:
            problems.append(f"{record.place}: {error}")
            continue
        if (candidate.position, candidate.layer) in candidates:
            problems.append(f"{record.place}: {candidate.place} is there already: keep one of the two")
        candidates[candidate.position, candidate.layer] = candidate
    if problems:
        expected = "expected a JSON list of objects with " + ", ".join(_COLUMNS.values())
        raise InputError.listing(f"{path} cannot be used as a table of candidates; {expected}:", problems)
    return list(candidates.values())


def write_table(path: Path, candidates: Sequence[Candidate]) -> None:
    write_json_atomically(path, [candidate.to_row() for candidate in candidates])


def _candidate(row: Mapping[str, Any]) -> Candidate:
    if missing := [column for column in _COLUMNS.values() if column not in row]:
        raise ValueError(f"{', '.join(missing)} missing")
    values: dict[str, Any] = {}
    for name, column in _COLUMNS.items():
        value = row[column]
        if name in ("position", "layer"):
            wrong = not isinstance(value, int) or isinstance(value, bool) or (value >= 0) is (name == "position")
            if wrong:
                expected = "a negative whole number" if name == "position" else "a whole number from 0"
                raise ValueError(f"{column} is {describe(value, is_name=True)}, expected {expected}")
            values[name] = value
        else:
            if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
                raise ValueError(f"{column} is a {type(value).__name__}, expected a number or null")
            values[name] = math.nan if value is None else float(value)
    return Candidate(**values)
