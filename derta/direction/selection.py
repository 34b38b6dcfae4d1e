"""The rule that chooses a direction among candidates, and tables of candidates as files.

    candidate (position, layer): bypass | induce | KL  --drop invalid ones-->  survivors  --least bypass-->  chosen

bypass: mean refusal metric of harmful prompts under ablation, the lower the better. induce: mean refusal metric of
harmless prompts under addition. KL: of the next token on harmless prompts, model against ablated model, in nats.
Files have the layout of `direction_evaluations.json` in github.com/andyrdt/refusal_direction (commit 9d852fa), whose
published choices and surviving sets the rule reproduces. Rule: arXiv 2406.11717, appendix C.
"""

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
    def unmeasured(self) -> bool:
        return any(map(math.isnan, (self.bypass, self.induce, self.kl)))

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
    end = math.floor(round((1 - rule.top_layers) * layers, 9))
    survivors, dropped = [], {}
    for candidate in candidates:
        if candidate.unmeasured:
            broken = {"not measurable: the two means are equal there, or a score is NaN": True}
        else:
            broken = {
                f"in the top {rule.top_layers:.0%} of the layers (selection.top_layers)": candidate.layer >= end,
                f"KL above {rule.kl_max:g}: harmless answers change (selection.kl_max)": candidate.kl > rule.kl_max,
                f"induce below {rule.induce_min:g}: added, it does not make the model refuse (selection.induce_min)": (
                    candidate.induce < rule.induce_min
                ),
            }
        if any(broken.values()):
            dropped[candidate.place] = [reason for reason, holds in broken.items() if holds]
        else:
            survivors.append(candidate)
    survivors.sort(key=lambda candidate: candidate.bypass)
    return Selection(survivors[0] if survivors else None, tuple(survivors), dropped)


def read_table(path: str | Path) -> list[Candidate]:
    """Candidates from a file in the published layout. Raises InputError: no such file, no JSON list of candidates,
    missing or unreadable numbers (all are listed), a place named twice."""
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
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name not in ("position", "layer"):
            if not number and value is not None:
                raise ValueError(f"{column} is a {type(value).__name__}, expected a number or null")
            values[name] = float(value) if number else math.nan
        elif not number or value != int(value) or (value < 0) is not (name == "position"):
            expected = "a negative whole number" if name == "position" else "a whole number from 0"
            raise ValueError(f"{column} is {describe(value, is_name=True)}, expected {expected}")
        else:
            values[name] = value
    return Candidate(**values)
