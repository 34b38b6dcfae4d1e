"""`probe`: the rows whose P(refusal) is measured while a run trains, every `trainer.eval_steps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from derta.config.settings import Settings, Text


@dataclass(kw_only=True, slots=True)
class ProbeConfig(Settings):
    """The rows whose P(refusal) is measured while a run trains."""

    path: Text | None = None
    """A dataset directory (its hold-out split, else all of it) or a rows file; null takes the hold-out split of
    data.path, and turns the probe off where that has none."""
    rows: Annotated[int, Ge(1), "a whole number, at least 1 (trainer.eval_steps=0 turns the probe off)"] = 64
    """At most so many harmful and so many benign ones."""
