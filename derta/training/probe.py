"""The probe: where a model would refuse, measured while it is trained, on rows it is not trained on.

    held-out rows -> harmful and benign responses as token ids -> dealt out to the ranks -> one teacher-forced forward
    per row -> P(refusal token) at every response position -> means, AUROC, also by depth -> one line of metrics.jsonl

Nothing is generated. The labels of a row are the refusal token at every response position, so the fused head gives one
number per position and [B, L, V] logits never exist. The curve and its numbers are those of the evaluation
(`derta.objective.refusal_probability`). Training goes on as if nothing had been: weights are equal to the last bit
with and without the probe.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from derta.config import TrainRunConfig
from derta.data.load import LoadedRows, dataset_splits, load_rows
from derta.data.normalise import prompt_key
from derta.errors import InputError, errors_named
from derta.models.conversation import ConversationCutter, Cut, check_tokenizer, is_raw_text
from derta.objective.refusal_probability import longest_first, response_cuts, separation, teacher_forced_batch
from derta.objective.refusal_token import RefusalToken, usable_refusal_token
from derta.statistics.positions import POSITION_BUCKETS
from derta.training.undisturbed import evenly, on_all_ranks, undisturbed

logger = logging.getLogger(__name__)

Curve = Sequence[float]

_SHOWN = {
    "probe/refusal_prob_harmful": "P(refusal) harmful",
    "probe/refusal_prob_benign": "benign",
    "probe/auroc": "AUROC",
}


def probe_metrics(harmful: Sequence[Curve], benign: Sequence[Curve]) -> dict[str, float]:
    """Numbers of one measurement. Means and AUROC run over response positions, those of long rows included; the keys
    with a depth (`@0`, `@1-5`, `@6-30`, `@>30`, see POSITION_BUCKETS) over the positions of that depth. `auroc_low` and
    `auroc_high` are the ends of its 95% interval, with rows as the unit. What has no positions is left out; where the
    model gives NaN, so are the means and AUROC of everything."""
    sides = {"harmful": harmful, "benign": benign}
    found: dict[str, float] = {f"probe/rows_{side}": len(curves) for side, curves in sides.items()}
    if not all(math.isfinite(p) for p in chain(*harmful, *benign)):
        return found | {f"probe/{name}": math.nan for name in ("refusal_prob_harmful", "refusal_prob_benign", "auroc")}
    parted = separation(harmful, benign)
    for name, first, last in (("all", 0, math.inf), *POSITION_BUCKETS):
        depth = "" if name == "all" else f"@{name}"
        for side, curves in sides.items():
            values = [p for curve in curves for t, p in enumerate(curve) if first <= t <= last]
            if name == "all":
                found[f"probe/positions_{side}"] = len(values)
            if values:
                found[f"probe/refusal_prob_{side}{depth}"] = math.fsum(values) / len(values)
        area = parted[name]
        if area.auroc is not None:
            found[f"probe/auroc{depth}"] = area.auroc
            if name == "all" and area.low is not None and area.high is not None:
                found |= {"probe/auroc_low": area.low, "probe/auroc_high": area.high}
    return found


def load_probe_rows(config: TrainRunConfig, trained: Dataset) -> LoadedRows | None:
    """The held-out rows to measure on; None, said once, where there are none, or where the probe is off.

    Rows whose prompt is trained on are left out, with a warning that says how many: a curve over them would show what
    the model remembers.

    Raises:
        InputError: probe.path cannot be read, the hold-out split has changed since it was built, or none of its rows
            is held out.
    """
    path = Path(config.probe.path or config.data.path).expanduser()
    if config.trainer.eval_steps == 0:
        return None
    splits = dataset_splits(path)
    if config.probe.path is None and "holdout" not in splits:
        on = "holdout: in their recipe, or probe.path, turns it on"
        logger.info("probe: off, the data have no hold-out split (%s)", on)
        return None
    with errors_named("rows of the probe", {"data.path=": "probe.path="}):
        split = "holdout" if "holdout" in splits else "train"
        rows = load_rows(path, *("derta", split) if path.is_dir() else ("preference",))
    return _held_out(rows, trained)


def _held_out(rows: LoadedRows, trained: Dataset) -> LoadedRows:
    seen = {prompt_key(prompt) for prompt in trained["prompt"]}
    kept = [i for i, prompt in enumerate(rows.dataset["prompt"]) if prompt_key(prompt) not in seen]
    everything = len(rows.dataset)
    if not kept:
        raise InputError(
            f"rows of the probe: the prompts of all {everything} are trained on (case, spacing and punctuation aside): "
            "give rows that are held out (holdout: in the recipe, or probe.path), or turn the probe off with "
            "trainer.eval_steps=0"
        )
    if left := everything - len(kept):
        logger.warning("probe: %d of %d rows left out, their prompts are trained on", left, everything)
        rows = replace(rows, dataset=rows.dataset.select(kept))
    return rows


def make_probe(config: TrainRunConfig, rows: LoadedRows, tokenizer: Any, model: Any) -> RefusalProbe | None:
    """The probe of a run, None where there is no refusal token to measure; see RefusalProbe for what is raised."""
    check_tokenizer(tokenizer, needs_chat_template=any(not is_raw_text(prompt) for prompt in rows.dataset["prompt"]))
    asked = config.objective
    refusal = usable_refusal_token(tokenizer, asked.refusal_text, asked.refusal_token_ids, otherwise="probe: off")
    if refusal is None:
        return None
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return RefusalProbe(
        list(rows.dataset),
        tokenizer,
        refusal,
        every=config.trainer.eval_steps,
        rows_per_side=config.probe.rows,
        max_length=min(config.data.max_length, positions or config.data.max_length),
    )


class RefusalProbe(TrainerCallback):
    """Measures before the first step, every `every` steps and after the last one.

    Args:
        rows: the same ones on every rank, in the schema of derta/data/schema.py. Harmful is what has a `rejected`
            response, benign are helpful rows.
        refusal: the token whose probability is measured.
        every: optimizer steps between two measurements.
        rows_per_side: at most so many harmful and so many benign rows.
        max_length: tokens per row; responses are cut off there.

    Raises:
        InputError: the rows hold no response that could be measured, or one that cannot be cut out of its template.

    Attributes:
        seconds: what all measurements together have taken.
    """

    trainer: Any  # of ours, once it is attached

    def __init__(
        self,
        rows: Sequence[dict[str, Any]],
        tokenizer: Any,
        refusal: RefusalToken,
        *,
        every: int,
        rows_per_side: int,
        max_length: int,
    ):
        self.refusal, self.every = refusal, every
        self._pad_token_id = tokenizer.pad_token_id
        cutter = ConversationCutter(tokenizer)
        sides = {
            "harmful": [row for row in rows if row["rejected"]],
            "benign": [row for row in rows if row["kind"] == "helpful"],
        }
        named = "the rows of the probe (probe.path, or the hold-out split)"
        with errors_named(named):
            self._sides = {
                side: response_cuts(cutter, evenly(some, rows_per_side), harmful=side == "harmful", limit=max_length)
                for side, some in sides.items()
            }
        if not any(self._sides.values()):
            raise InputError(
                f"{named} hold neither a harmful nor a helpful response: give other rows, or turn the probe off with "
                "trainer.eval_steps=0"
            )
        self.seconds = 0.0
        self._since = time.perf_counter()
        self._measurements = 0

    def attach(self, trainer: Trainer) -> None:
        """Measure this trainer of ours while it trains; each trainer has a probe of its own."""
        self.trainer = trainer
        trainer.add_callback(self)

    # When

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._since = time.perf_counter()
        if state.global_step == 0:  # a resumed run has its line
            self._log(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._log(state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._measurements:
            said = "probe: %d measurements in %.1f s, %.1f%% of the time of training"
            logger.info(said, self._measurements, self.seconds, 100 * self._share())

    def _share(self) -> float:
        return self.seconds / max(time.perf_counter() - self._since, 1e-9)

    def _log(self, state: TrainerState) -> None:
        with self.trainer.stopwatch.paused():
            begin = time.perf_counter()
            found = self.measure()
            seconds = time.perf_counter() - begin
            self.seconds += seconds
            self._measurements += 1
            found |= {"probe/seconds": seconds, "probe/share_of_time": self._share()}
            shown = [f"{name} {found[key]:.3f}" for key, name in _SHOWN.items() if key in found]
            logger.info("probe at step %d: %s (%.1f s)", state.global_step, ", ".join(shown), seconds)
            line_is_due = self.trainer.control.should_log
            Trainer.log(self.trainer, found)  # past the trainer's own, which would close its window of sums
            self.trainer.control.should_log = line_is_due

    # What

    def measure(self) -> dict[str, float]:
        """`probe_metrics` of the model as it is now, the same on every rank; every rank must call it."""
        cuts = {f"{side} {key}": cut for side, own in self._sides.items() for key, cut in own.items()}
        lengths = {name: len(cuts[name].response) for name in longest_first(cuts)}
        with undisturbed(self.trainer) as model:
            found = on_all_ranks(self.trainer, lengths, lambda names: self._run(model, [cuts[name] for name in names]))
        harmful, benign = ([found[f"{side} {key}"].tolist() for key in own] for side, own in self._sides.items())
        return probe_metrics(harmful, benign)

    def _run(self, model: Any, cuts: list[Cut]) -> Iterator[torch.Tensor]:
        """P(refusal) at every response position, of each row."""
        total: Any = 0.0  # [B, L - 1]
        for token in self.refusal.ids:
            batch = teacher_forced_batch(cuts, token, self._pad_token_id)
            batch = {name: tensor.to(self.trainer.accelerator.device) for name, tensor in batch.items()}
            with self.trainer.compute_loss_context_manager():
                log_probs = model(**batch, use_cache=False, fused_lm_head=True).log_probs
            total = total + log_probs.float().exp()
        for row, cut in zip(total, cuts, strict=True):
            yield row[len(cut.prompt) - 1 :][: len(cut.response)]
