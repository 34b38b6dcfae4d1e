"""What happens beside the steps: metrics.jsonl, W&B's curves, and the record that makes a checkpoint complete."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import WandbCallback
from transformers.integrations.integration_utils import rewrite_logs

from derta.storage.atomic import apply_umask, write_atomically
from derta.training.checkpoints import keep_newest, mark_complete, remove_later
from derta.training.identity import write_config
from derta.training.wandb_history import STEP, LoggedCurves, lines_of

METRICS_FILE = "metrics.jsonl"
SUMMARY_KEY = "train_runtime"  # only in the last line of a run
_ONLY_IN_SUMMARY = {SUMMARY_KEY, "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


class MetricsFile(TrainerCallback):
    """`metrics.jsonl`: one JSON object per log, with the step; the same curves as in W&B.

    A resumed run drops the lines of steps it is about to take again, so the file has neither gaps nor doubles; and a
    line is written at every checkpoint, so that no window of averaging reaches across one.
    """

    def __init__(self, output_dir: Path):
        self.path = output_dir / METRICS_FILE

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero or not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_atomically(self.path, "".join(f"{line}\n" for line in lines if _is_before(line, state.global_step)))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        numbers = {key: _json_number(value) for key, value in logs.items() if isinstance(value, (int, float))}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")


def _json_number(value: float) -> float | str:
    """JSON has no NaN or infinity; they are written as text rather than hidden."""
    return value if math.isfinite(value) else str(value)


def _is_before(line: str, step: int) -> bool:
    """Whether a line stays when the run goes on from `step`: the half line of a killed process does not, nor does the
    summary at the end. A run that begins anew keeps none: what is measured before its first step is measured again."""
    try:
        entry = json.loads(line)
        return 0 < step and int(entry["step"]) <= step and SUMMARY_KEY not in entry
    except (ValueError, KeyError, TypeError):
        return False


class WandbCurves(WandbCallback):
    """W&B's callback of transformers, which would put what the probe measures among the curves of training, and log
    what the W&B run already holds a second time.

    Args:
        logged: what it holds.
        metrics_file: of this run; what it has and W&B has not is logged when training begins.
    """

    def __init__(self, logged: LoggedCurves, metrics_file: Path):
        super().__init__()
        self.logged, self.metrics_file = logged, metrics_file

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, model=model, **kwargs)
        for step, logs in lines_of(self.metrics_file):
            self._log(step, logs)

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **kwargs: Any) -> None:
        self._log(state.global_step, logs or {})

    def _log(self, step: int, logs: dict[str, Any]) -> None:
        curves = {}
        for name, value in logs.items():
            if name in _ONLY_IN_SUMMARY:
                self._wandb.run.summary[name] = value
            elif name.startswith("probe/"):
                curves[name] = value
            else:
                curves.update(rewrite_logs({name: value}))
        if missing := self.logged.take_missing(step, curves):
            row, self.logged.rows = self.logged.rows, 0
            counted_on: dict[str, Any] = {"step": row, "commit": True} if row else {}
            self._wandb.log({**missing, STEP: step}, **counted_on)


class OffloadedAdamGoesOn(TrainerCallback):
    """DeepSpeed's Adam on the host multiplies its powers of beta up, step by step; a new process begins with pow(),
    which rounds otherwise, and the last bits of a resumed run would differ. So the steps taken are counted up again, on
    a single number.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        import torch

        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if state.global_step == 0 or not hasattr(optimizer, "ds_opt_adam"):
            return
        taken = max((int(values["step"]) for values in optimizer.state.values() if "step" in values), default=0)
        beta1, beta2 = optimizer.param_groups[0]["betas"]
        weight, gradient, mean, square = (torch.zeros(1) for _ in range(4))
        for step in range(1, taken + 1):
            optimizer.ds_opt_adam.adam_update(
                optimizer.opt_id, step, 0.0, beta1, beta2, 1.0, 0.0, True, weight, gradient, mean, square
            )


class CompletionRecord(TrainerCallback):
    """Marks a checkpoint complete once every rank has written its share, and only then removes older ones.

    Args:
        keep: number of complete checkpoints to keep; None keeps all.
        description: content of config.yaml, which goes into every checkpoint: it says which run made it.
    """

    def __init__(self, keep: int | None = None, description: dict[str, Any] | None = None):
        self.keep = keep
        self.description = description

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed state brings its old save_steps and logging_steps
        if state.is_world_process_zero:
            remove_later(Path(str(args.output_dir)), state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            output_dir = Path(str(args.output_dir))
            checkpoint = output_dir / f"checkpoint-{state.global_step}"
            if self.description is not None:
                write_config(checkpoint, self.description)
            apply_umask(checkpoint)
            mark_complete(checkpoint, state.global_step, args.world_size)
            keep_newest(output_dir, self.keep)
