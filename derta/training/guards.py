"""No step is taken with a loss or gradient that is not finite, on any rank and with any engine.

    loss x (1 + 0 x loss)  ->  gradient, NaN if a loss was not finite  ->  norm over all ranks  ->  check

A loss that is not finite poisons its gradient, so that the norm, which every rank computes before an update anyway,
tells all of them at the same step: no collective and no synchronisation is added. Row ids are gathered only then.

Where the norm is checked: before `optimizer.step()` under plain and data-parallel training; inside DeepSpeed's step
under ZeRO, behind the function that computes the norm and before the first weight is changed. (DeepSpeed itself drops
such steps under ZeRO-3 without a word, and under ZeRO-1 and ZeRO-2 in bfloat16 takes them.)
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer

from derta.errors import NonFiniteStep, first_of
from derta.training.collator import ROW_IDS
from derta.training.resume import newest_complete

_NAMED_ROWS = 16  # per rank


class Guards:
    """Stops before an update that is not finite; leaves out updates whose gradient norm is an outlier, if asked to.

    Args:
        trainer: whose steps are watched; it hands over its batches, losses and gradient norms (see below).
        skip_grad_norm_above: global gradient norms above it skip the update (not the learning-rate schedule); None
            takes every finite step.
    """

    def __init__(self, trainer: Trainer, skip_grad_norm_above: float | None):
        self.trainer, self.skip_grad_norm_above = trainer, skip_grad_norm_above
        self._skipped_steps = 0  # since the last log line
        self._skipped_norm: float | None = None
        self._rows_of_step: list[list[str]] = []
        self._losses_of_step: list[torch.Tensor] = []
        self._engine: Any = None

    def begin(self, model: Any) -> None:
        """Training begins with this model, which may be DeepSpeed's engine."""
        if self.trainer.is_deepspeed_enabled and self._engine is not model:
            self._watch_engine(model)

    def begin_step(self, batches: list[dict[str, Any]]) -> None:
        """The micro-batches of the next step; their row ids are taken out."""
        self._rows_of_step = [list(batch.pop(ROW_IDS, [])) for batch in batches]
        self._losses_of_step = []

    def watched(self, loss: torch.Tensor) -> torch.Tensor:
        """The training loss of a micro-batch: unchanged if finite (x 1.0), else with a gradient of NaN."""
        self._losses_of_step.append(loss.detach())
        return loss * (1 + 0 * loss.detach())

    def check(self, model: Any, norm: Any) -> Any:
        """The gradient norm of a step before (with DeepSpeed: after) its update, as it is to be logged.

        Raises:
            NonFiniteStep: it is not finite.
        """
        if self._engine is not None:
            return self._after_engine_step(norm)
        if self._refuses(float(norm)):
            model.zero_grad(set_to_none=True)  # AdamW passes parameters without a gradient by
        return norm

    def curves(self) -> dict[str, float]:
        """The left-out updates since the start of the run, if there can be any; for a line of the log."""
        if self.skip_grad_norm_above is None:
            return {}
        added, self._skipped_steps = self._skipped_steps, 0
        return {"skipped_steps": logged_before(self.trainer, "skipped_steps") + added}

    def _refuses(self, norm: float) -> bool:
        """Whether to leave this update out; raises NonFiniteStep if the norm is not finite. The same on every rank."""
        self._skipped_norm = None
        if not math.isfinite(norm):
            raise self._not_finite()
        limit = self.skip_grad_norm_above
        if limit is None:
            return False
        args = self.trainer.args
        if args.world_size > 1:  # equal up to rounding is not enough to decide the same everywhere
            largest = torch.tensor(norm, dtype=torch.float32, device=args.device)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            norm = float(largest)
        if norm > limit:
            self._skipped_steps += 1
            self._skipped_norm = norm
        return norm > limit

    # DeepSpeed: the update is inside engine.step(), which accelerate calls in backward()

    def _watch_engine(self, engine: Any) -> None:
        """Put the check behind the function with which the ZeRO optimizer computes its norm."""
        from deepspeed.runtime.utils import combine_grad_norm_groups, is_invalid_grad_norm

        optimizer = engine.optimizer
        name = next((n for n in ("scaled_global_norm", "_get_norm_groups") if hasattr(optimizer, n)), None)
        self._engine = engine
        self._engine_checks_overflow = getattr(optimizer, "check_grad_overflow", None)
        if name is None:  # stage 0: the norm is known after the update only
            return
        compute: Callable[..., Any] = getattr(optimizer, name)

        def checked(*args: Any, **kwargs: Any) -> Any:
            found = compute(*args, **kwargs)
            norm = combine_grad_norm_groups(found) if isinstance(found, list) else found
            # A norm that is not finite comes as -1 from some of DeepSpeed's functions.
            value = math.nan if is_invalid_grad_norm(norm) else float(norm) / float(optimizer.loss_scale)
            if not self._refuses(value):
                return found
            # "Overflow" is how the optimizer itself drops a step and clears its buffers.
            if self._engine_checks_overflow is not None:
                optimizer.check_grad_overflow = True
            invalid = torch.full_like(torch.as_tensor(norm), math.inf)
            return [invalid] if isinstance(found, list) else invalid

        setattr(optimizer, name, checked)

    def _after_engine_step(self, norm: Any) -> Any:
        if self._skipped_norm is not None:
            optimizer = self._engine.optimizer
            if self._engine_checks_overflow is not None:
                optimizer.check_grad_overflow = self._engine_checks_overflow
            optimizer.overflow = False  # else the learning rate would stay where it is
            norm, self._skipped_norm = self._skipped_norm, None
        elif norm is None or not math.isfinite(float(norm)) or float(norm) < 0:
            raise self._not_finite()
        return norm

    # What is said

    def _not_finite(self) -> NonFiniteStep:
        """Gathers what every rank knows; every rank must call it."""
        losses = [float(loss) for loss in self._losses_of_step]
        own = list(zip(losses, self._rows_of_step, strict=False))
        ranks: list[Any] = [own]
        if self.trainer.args.world_size > 1:
            ranks = [None] * self.trainer.args.world_size
            dist.all_gather_object(ranks, own)
        bad = [
            f"rank {rank}, micro-batch {number}: loss {loss}, rows {_named(rows)}"
            for rank, batches in enumerate(ranks)
            for number, (loss, rows) in enumerate(batches)
            if not math.isfinite(loss)
        ]
        what = "loss" if bad else "gradient (every loss is finite)"
        rows = [[name for _, names in batches for name in names] for batches in ranks]
        bad = bad or [f"rank {rank}: rows {_named(names)}" for rank, names in enumerate(rows)]
        kept = newest_complete(Path(str(self.trainer.args.output_dir)))
        good = kept.name if kept else "none: this run has saved none yet"
        lines = [
            f"step {self.trainer.state.global_step + 1} was stopped before its update: the {what} is not finite",
            *(f"  - {line}" for line in bad),
            f"the last good checkpoint is {good}; look at these rows, lower the learning rate, or set "
            "skip_grad_norm_above if norms rose first",
        ]
        return NonFiniteStep("\n".join(lines))


def logged_before(trainer: Trainer, name: str) -> Any:
    """What the log last said of a count, in the parts of the run before an interruption, too; 0 if it said nothing."""
    return next((entry[name] for entry in reversed(trainer.state.log_history) if name in entry), 0)


def _named(rows: list[str]) -> str:
    return first_of(rows, _NAMED_ROWS) or "unknown"
