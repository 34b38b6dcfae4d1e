"""The evaluation of a model in the W&B run that trained it: numbers alone, beside its curves.

    OUTPUT_DIR/wandb_run.json of the model  ->  the run's id  ->  summary  evaluation/LABEL/SET/ATTACK/complied, refused

It happens where W&B is in use: with a key, or with WANDB_MODE=offline said outright; and only for a run of derta's.
"""

import os
from pathlib import Path

from derta.evaluation.summary import Summary
from derta.training.wandb_run import continued_run, resolve_mode


def log_evaluation(model: str, summary: Summary) -> bool:
    """Put the rates of every attack into the summary of the model's W&B run; returns whether there was one to put them
    in. A later evaluation under the same label replaces them. Raises InputError: W&B could not go on with the run."""
    mode = resolve_mode("auto")
    if mode == "disabled" or (mode == "offline" and "WANDB_MODE" not in os.environ):
        return False
    run = continued_run(Path(model), mode)
    if run is None:
        return False
    for name, found in summary.sets.items():
        for attack, cell in [*found.attacks.items(), ("overall", found.overall)]:
            for what in ("complied", "refused"):
                if (rate := getattr(cell, what).rate) is not None:
                    run.summary[f"evaluation/{summary.label}/{name}/{attack}/{what}"] = rate
    run.finish()
    return True
