"""What `launch/export.py` is asked: which run to turn into a plain Hugging Face directory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from derta.config.model import Dtype


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """source: a run, one of its checkpoints, or an adapter. output: a directory that is not there yet.
    base: where an adapter's base model is now, if not where adapter_config.json says; revision: of a base on the hub.
    dtype: of the weights written; auto keeps the base's (of ZeRO state: bfloat16).
    tolerance: largest difference of a logit that is accepted; null: 1e-3 where nothing is rounded, else 5% of the
        largest logit.
    evaluation: output_dir of this model's evaluation, whose table the card shows; null looks beside the model (in
        SOURCE/evaluation, or where a sweep puts it).
    """

    source: str = ""
    output: str = ""
    base: str | None = None
    revision: str | None = None
    dtype: Dtype = Dtype.auto
    tolerance: float | None = None
    evaluation: str | None = None

    def problems(self) -> list[str]:
        found = []
        if not self.source.strip():
            found.append("source is empty: give the directory of a run, of a checkpoint or of an adapter")
        if not self.output.strip():
            found.append("output is empty: name a directory for the model")
        if self.base is not None and not self.base.strip():
            found.append("base is empty: give a model directory or a hub id, or null")
        if self.tolerance is not None and not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            found.append(f"tolerance={self.tolerance}: expected null, or 0 or more")
        return found
