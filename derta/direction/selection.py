"""The rule that chooses a direction among candidates, and tables of candidates as files.

    candidate (position, layer): bypass | induce | KL  --drop invalid ones-->  survivors  --least bypass-->  chosen

bypass: mean refusal metric of harmful prompts under ablation, the lower the better. induce: mean refusal metric of
harmless prompts under addition. KL: of the next token on harmless prompts, model against ablated model, in nats.
Files have the layout of `direction_evaluations.json` in github.com/andyrdt/refusal_direction (commit 9d852fa), whose
published choices and surviving sets the rule reproduces. Rule: arXiv 2406.11717, appendix C.
"""

from __future__ import annotations

import math
from collections import Counter
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
    """chosen: None where no candidate is valid. survivors: valid ones, best first. dropped: place -> reasons.

    reasons: reason -> how many candidates fall to it; one may fall to several. nearest: of the measurable ones that are
    not valid, the one that breaks the fewest conditions, of these the one with the least KL.
    """

    chosen: Candidate | None
    survivors: tuple[Candidate, ...]
    dropped: dict[str, list[str]]
    reasons: dict[str, int]
    nearest: Candidate | None

    def to_json(self) -> dict[str, Any]:
        chosen = self.chosen
        return {
            "position": chosen.position if chosen else None,
            "layer": chosen.layer if chosen else None,
            "survivors": len(self.survivors),
        }

    def why_not(self) -> dict[str, Any]:
        """Why candidates are not valid, as JSON."""
        return {
            "dropped": self.dropped,
            "reasons": self.reasons,
            "nearest": self.nearest.to_row() if self.nearest else None,
        }


def select(candidates: Sequence[Candidate], layers: int, rule: SelectionConfig) -> Selection:
    """The valid candidate with the least bypass score; the first of them in a tie.

    Args:
        layers: how many the model has. The topmost `floor(...)` boundary is the published code's: candidates lie
            below layer floor((1 - top_layers) * layers).
    """
    broken = {candidate: _broken(candidate, layers, rule) for candidate in candidates}
    survivors = sorted((c for c in candidates if not broken[c]), key=lambda candidate: candidate.bypass)
    missed = [c for c in candidates if broken[c] and not c.unmeasured]
    return Selection(
        survivors[0] if survivors else None,
        tuple(survivors),
        {candidate.place: list(reasons.values()) for candidate, reasons in broken.items() if reasons},
        dict(Counter(reason for reasons in broken.values() for reason in reasons)),
        min(missed, key=lambda c: (len(broken[c]), c.kl), default=None),
    )


def _broken(candidate: Candidate, layers: int, rule: SelectionConfig) -> dict[str, str]:
    """The conditions that a candidate breaks, each with its numbers; empty if it is valid."""
    if candidate.unmeasured:
        return {"not measurable": "not measurable: the two means are equal there, or a score is NaN"}
    found = {}
    end = math.floor(round((1 - rule.top_layers) * layers, 9))
    if candidate.layer >= end:
        found[f"in the top {rule.top_layers:.0%} of the layers (selection.top_layers)"] = (
            f"layer {candidate.layer} is in the top {rule.top_layers:.0%} of {layers}"
        )
    if candidate.kl > rule.kl_max:
        found[f"KL above {rule.kl_max:g}: ablation changes harmless answers (selection.kl_max)"] = (
            f"KL {candidate.kl:.3g} > {rule.kl_max:g}: ablation changes harmless answers"
        )
    if candidate.induce < rule.induce_min:
        found[f"induce below {rule.induce_min:g}: added, it does not make the model refuse (selection.induce_min)"] = (
            f"induce {candidate.induce:.3g} < {rule.induce_min:g}: added, it does not make the model refuse"
        )
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
