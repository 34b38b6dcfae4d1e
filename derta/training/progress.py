"""What a user sees while a model is trained: a bar where there is a terminal, and one short line per log.

transformers prints every log as a dictionary of all its numbers; those stand in metrics.jsonl.
"""

import time
from datetime import timedelta
from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl, TrainerState

_SHOWN = {  # names in a log, their eval_ twins included -> what they are called
    "loss": "loss",
    "mle_loss": "MLE loss",
    "rto_loss": "RTO loss",
    "refusal_prob": "P(refusal)",
    "rewards/accuracies": "preferred",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "tokens_per_second": "tokens/s",
}


def show_progress(trainer: Trainer) -> None:
    """Put ours in the place of what transformers shows; a notebook's table stays."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None or trainer.args.disable_tqdm:
        trainer.add_callback(Progress())


class Progress(ProgressCallback):
    """The bar, and the lines beside it."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begin, self._first, self.current_step = time.monotonic(), state.global_step, state.global_step
        if state.is_world_process_zero:  # None: no bar in a file
            total, disable = state.max_steps, True if args.disable_tqdm else None
            self.training_bar = tqdm(total=total, initial=state.global_step, dynamic_ncols=True, disable=disable)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and (line := line_of(logs or {}, state.global_step, state.max_steps)):
            done = state.global_step - self._first if self.training_bar is not None else 0
            if "train_runtime" not in logs and 0 < done and state.global_step < state.max_steps:
                left = (time.monotonic() - self._begin) / done * (state.max_steps - state.global_step)
                line += f", {timedelta(seconds=round(left))} left"
            tqdm.write(line)


def line_of(logs: dict[str, Any], step: int, steps: int) -> str:
    """One log for a reader; empty for the probe's, which says its own."""
    if "train_runtime" in logs:
        return f"{steps} steps: {timedelta(seconds=round(logs['train_runtime']))}, mean loss {logs['train_loss']:.4g}"
    prefix = next((key.removesuffix("loss") for key in logs if key.startswith("eval_") and key.endswith("_loss")), "")
    found = {key.removeprefix(prefix): value for key, value in logs.items()}
    shown = [f"{name} {_short(found[key])}" for key, name in _SHOWN.items() if isinstance(found.get(key), (int, float))]
    what = f" {prefix.strip('_')}" if prefix else ""
    return f"step {step}/{steps}{what}: {', '.join(shown)}" if shown else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"
