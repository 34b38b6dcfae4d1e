"""`sweep`: what launch/sweep.py does around the runs of a sweep. Nothing of it changes a run."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from derta.config.settings import Count, Name, Settings, Whole, shown


@dataclass(kw_only=True, slots=True)
class SweepConfig(Settings):
    """What launch/sweep.py does around the runs; launch/train.py reads nothing of it."""

    root: str = ""
    """Directory for runs, logs, evaluations and the table; empty is runs/sweep. A run goes into it, under the name of
    its arm and seed, unless output_dir is given or names a place below it."""
    arm: str = ""
    """What the runs of all seeds of one kind are called in the table (empty: the objective, and what else varies)."""
    parallel: Count = 1
    """Jobs side by side."""
    ranks: Count = 1
    """Processes per job."""
    gpus: Annotated[list[list[Whole]], "sets of GPU numbers, [[0,1],[2,3]]"] = field(default_factory=list)
    """One set per job that runs at a time, for example [[0,1,2,3],[4,5,6,7]]; parallel and ranks follow."""
    prepare: Literal["none", "miniature"] = "none"
    """none: models and rows are there. miniature: per seed a fresh model and a base model trained on it; once, the
    rows of `recipe` and the evaluation's prompts."""
    recipe: str = "miniature"
    """Recipe of the rows that `prepare` makes."""
    evaluate: list[str] = field(default_factory=list)
    """Overrides of launch/evaluate.py for the evaluation of every finished run (empty: none, and no table)."""
    by_objective: dict[str, Any] = field(default_factory=dict)
    """What an objective needs different from the others, for interpolations of an experiment."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.gpus:
            flat = [gpu for gpus in self.gpus for gpu in gpus]
            sets = f"{key('gpus')}={shown(self.gpus)}"
            if len({len(gpus) for gpus in self.gpus}) > 1 or not self.gpus[0]:
                yield f"{sets}: expected sets of the same size, each with at least one GPU"
            if len(set(flat)) < len(flat):
                yield f"{sets}: name every GPU once, by its number from 0"
            if self.parallel != 1 or self.ranks != 1:
                yield f"{sets} says how many jobs and ranks there are: drop {key('parallel')} and {key('ranks')}"
        if self.prepare == "miniature" and not self.root.strip():
            yield f"{key('root')} is empty: name a directory for what {key('prepare')}=miniature makes"

    @property
    def processes(self) -> int:
        """Ranks of every job."""
        return len(self.gpus[0]) if self.gpus else self.ranks

    @property
    def slots(self) -> list[dict[str, str]]:
        """Environment variables of the places at which jobs run side by side."""
        if self.gpus:
            # where a scheduler has handed out GPUs already, the numbers count those
            given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
            names = [[given[gpu] if gpu < len(given) else str(gpu) for gpu in gpus] for gpus in self.gpus]
            return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus)} for gpus in names]
        return [{} for _ in range(self.parallel)]
