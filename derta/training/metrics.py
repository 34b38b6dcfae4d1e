"""Training curves as sums over tokens, gathered once per log line.

Ratios of micro-batches are biased where a micro-batch holds no RTO token; so numerators and denominators are summed on
the device over micro-batches, steps and ranks, and divided once, when a line is written. What the host knows anyway
(how long the rows are) is summed on the host: no micro-batch waits for the device. The lines go to metrics.jsonl.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState

from derta.config import Arm
from derta.models.flops import ModelFlops
from derta.storage.json_lines import append_lines, read_lines, write_lines
from derta.training.throughput import Stopwatch, rates

METRICS_FILE = "metrics.jsonl"
_SUMMARY_KEY = "train_runtime"  # only in the last line of a run
ONLY_IN_SUMMARY = {_SUMMARY_KEY, "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
_ON_DEVICE = ("mle_nll", "mle_tokens", "mle_correct", "rto_nll", "rto_tokens", "refusal_prob", "mle_own", "rto_own")
_ON_HOST = ("tokens", "slots", "squares")


class TokenSums:
    """Running sums of one mode (training or evaluation); README.md says what their curves mean. `num_tokens` is that of
    the window, and the trainer adds windows up.

    Args:
        watch: what the rates are divided by; there are none while it has not been started.
        arm: by name.
    """

    def __init__(self, watch: Stopwatch, arm: str = Arm.derta.value) -> None:
        self.watch, self.arm, self.rows = watch, arm, Arm(arm).rows
        self._on_device: torch.Tensor | None = None
        self._on_host = [0] * len(_ON_HOST)

    @torch.no_grad()
    def add(
        self,
        log_probs: torch.Tensor,
        correct: torch.Tensor,
        objective: torch.Tensor,
        lengths: Sequence[int],
        slots: int,
        scores: torch.Tensor | None = None,
    ) -> None:
        """One micro-batch, without host synchronisation.

        Args:
            log_probs, correct, objective: [B, T].
            lengths: tokens of each row.
            slots: tokens the batch has room for, padding included.
            scores: [B, T], of `objective.reference.reference_scores`.
        """
        mle, rto, own = objective == 1, objective == 2, log_probs if scores is None else scores
        nothing = log_probs.new_zeros(())
        values = [
            -torch.where(mle, log_probs, nothing).sum(),
            mle.sum(),
            (correct.bool() & mle).sum(),
            -torch.where(rto, log_probs, nothing).sum(),
            rto.sum(),
            torch.where(rto, log_probs.exp(), nothing).sum(),
            *(-torch.where(kind, own, nothing).sum() if self.rows.reference else nothing for kind in (mle, rto)),
        ]
        # MPS has no float64; everywhere else counts stay exact far beyond one window.
        dtype = torch.float32 if log_probs.device.type == "mps" else torch.float64
        added = torch.stack([value.detach().to(dtype) for value in values])
        self._on_device = added if self._on_device is None else self._on_device + added
        known = (sum(lengths), slots, sum(length * length for length in lengths))
        self._on_host = [before + more for before, more in zip(self._on_host, known, strict=True)]

    def drain(
        self, accelerator: Accelerator, flops: ModelFlops | None = None, peak_flops: float | None = None
    ) -> dict[str, float]:
        """The window's curves, over all ranks; the sums start again. Every rank must call it.

        Args:
            flops: what the model computes per token; with peak_flops (of one device) it gives mfu.
        """
        if self._on_device is None:
            return {}
        sums = torch.cat([self._on_device, self._on_device.new_tensor(self._on_host)])
        summed = accelerator.reduce(sums, reduction="sum").tolist()
        total = dict(zip(_ON_DEVICE + _ON_HOST, summed, strict=True))
        self._on_device, self._on_host = None, [0] * len(_ON_HOST)
        total["supervised"] = total["mle_tokens"] + total["rto_tokens"]
        harmful = "unlearn" if self.rows.unlearn else "rto"
        curves = {"mle_tokens": total["mle_tokens"], f"{harmful}_tokens": total["rto_tokens"]}
        curves |= {"num_tokens": total["tokens"]}
        peak = None if peak_flops is None else peak_flops * accelerator.num_processes
        curves |= rates(total, self.watch.read(), flops, peak)
        if total["mle_tokens"]:  # an absent objective has no curve, rather than a curve of zeros
            curves["mle_loss"] = total["mle_nll"] / total["mle_tokens"]
            curves["mle_token_accuracy"] = total["mle_correct"] / total["mle_tokens"]
        if total["rto_tokens"]:
            curves[f"{harmful}_loss"] = total["rto_nll"] / total["rto_tokens"]
            if not self.rows.unlearn:
                curves["refusal_prob"] = total["refusal_prob"] / total["rto_tokens"]
        for has, name, kind in (
            (self.rows.constrained, f"{self.arm}_loss", "mle"),
            (self.rows.weighted, "weighted_mle_loss", "mle"),
            (self.rows.unlearn, f"{self.arm}_loss", "rto"),
        ):
            if has and total[f"{kind}_tokens"]:
                curves[name] = total[f"{kind}_own"] / total[f"{kind}_tokens"]
        return curves


class MetricsFile(TrainerCallback):
    """`metrics.jsonl`: one JSON object per log, with the step; the same curves as in W&B.

    A resumed run drops the lines of steps it is about to take again, so the file has neither gaps nor doubles; and a
    line is written at every checkpoint, so that no window of averaging reaches across one.
    """

    def __init__(self, output_dir: Path):
        self.path = output_dir / METRICS_FILE

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero and self.path.is_file():
            write_lines(self.path, [line for line in read_lines(self.path) if _is_before(line, state.global_step)])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_log = control.should_log or control.should_save

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        # JSON has no NaN or infinity; they are written as text rather than hidden.
        numbers = {
            key: value if math.isfinite(value) else str(value)
            for key, value in logs.items()
            if isinstance(value, (int, float))
        }
        append_lines(self.path, [{"step": state.global_step, **numbers}], durable=False)


def lines_of(metrics_file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, logs) of metrics.jsonl, as they were handed to the callbacks."""
    for logs in read_lines(metrics_file):
        yield logs.pop("step"), {name: float(value) for name, value in logs.items()}


def _is_before(line: dict[str, Any], step: int) -> bool:
    """Whether a line stays when the run goes on from `step`: the summary at the end does not. A run that begins anew
    keeps none: what is measured before its first step is measured again."""
    try:
        return 0 < step and int(line["step"]) <= step and _SUMMARY_KEY not in line
    except (ValueError, KeyError, TypeError):
        return False
