"""The dpo arm: TRL's DPOTrainer on the same triples (chosen = safe response, rejected = harmful response).

The paper runs one DPO epoch on top of the vanilla model: give that as model.name_or_path.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from derta.data.load import LoadedRows
from derta.errors import InputError
from derta.models.flops import ModelFlops
from derta.models.load import check_adapted_ends
from derta.models.quantized import ready_for_training
from derta.training.card import Origin, create_card, save_derta_config
from derta.training.collator import ROW_IDS
from derta.training.dataset import token_lengths, tokenize_table, without_long_prompts
from derta.training.guards import Guards, logged_before
from derta.training.kernels import settle_kernels
from derta.training.progress import show_progress
from derta.training.throughput import Stopwatch, flops_and_peak, rates

if TYPE_CHECKING:
    from derta.training.probe import RefusalProbe

logger = logging.getLogger(__name__)

_COUNTED = "counts"  # key of a batch; taken out before the model sees it
_COUNTS = ("tokens", "supervised", "slots", "squares")


def _count(batch: dict[str, Any]) -> list[int]:
    """Of a batch on the host, both responses of each pair: _COUNTS."""
    lengths, supervised = batch["attention_mask"].sum(dim=1), int(batch["completion_mask"].sum())
    return [int(lengths.sum()), supervised, batch["input_ids"].numel(), int((lengths * lengths).sum())]


@dataclass
class PairConfig(DPOConfig):
    """DPOConfig with `peak_flops` and `skip_grad_norm_above` of DeRTaConfig."""

    peak_flops: float | None = None
    skip_grad_norm_above: float | None = None


class PairTrainer(DPOTrainer):
    """DPOTrainer that leaves the same files beside its weights as DeRTaTrainer, and logs what becomes of its rows. Its
    hooks stand in the order in which a run calls them, and call the same objects as DeRTaTrainer's.

    Args:
        train_dataset: rows with id, prompt_ids, chosen_ids and rejected_ids.
        rows: pairs (how many there are), dropped_pairs (prompts that fill max_length) and left_out (all other rows of
            the data, dropped pairs included).
        origin, probe: as in DeRTaTrainer.
    """

    _tag_names = ["trl", "dpo", "derta"]

    def __init__(
        self,
        *args: Any,
        rows: dict[str, int],
        origin: Origin | None = None,
        probe: RefusalProbe | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if isinstance(self.model, PeftModel):
            check_adapted_ends(self.model)
            ready_for_training(self.model)
        settle_kernels(self)
        lengths = token_lengths(self.train_dataset, ("prompt_ids", "chosen_ids", "rejected_ids"))
        truncated = sum(
            prompt + response > self.args.max_length
            for name in ("chosen_ids", "rejected_ids")
            for prompt, response in zip(lengths["prompt_ids"], lengths[name], strict=True)
        )
        self._rows, self.origin = {**rows, "truncated_responses": truncated}, origin or Origin()
        self._counts = [0] * len(_COUNTS)
        self.guards, self.stopwatch = Guards(self, self.args.skip_grad_norm_above), Stopwatch()
        collate: Any = self.data_collator  # type: ignore[has-type]

        def collate_with_ids(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(examples)
            return {**batch, ROW_IDS: [example["id"] for example in examples], _COUNTED: _count(batch)}

        self.data_collator = collate_with_ids
        show_progress(self)
        if probe is not None:
            probe.attach(self)

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # tokenised as rows of the other arms are

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "id" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "id"]

    def _run_epoch(self, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:  # resumed at the last step: it would take one more
            self.control.should_training_stop = True
            return None
        self.guards.begin(kwargs["model"])
        if self._total_train_tokens == 0:  # TRL counts from 0 again after a resume
            self._total_train_tokens = logged_before(self, "num_tokens")
        return super()._run_epoch(**kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples, count = super().get_batch_samples(*args, **kwargs)
        for batch in samples:
            self._counts = [before + more for before, more in zip(self._counts, batch.pop(_COUNTED), strict=True)]
        self.guards.begin_step(samples)
        self.stopwatch.start()
        return samples, count

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return self.guards.watched(loss) if self.model.training and isinstance(loss, torch.Tensor) else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        return self.guards.check(model, super()._get_grad_norm(model, grad_norm=grad_norm))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and "loss" in logs:
            pairs, dropped = self._rows["pairs"], self._rows["dropped_pairs"]
            logs["truncated_share"] = self._rows["truncated_responses"] / (2 * pairs)
            logs["dropped_share"] = dropped / (pairs + dropped)
            logs.update(self._rates())
        if self.model.training:
            logs.update(self.guards.curves())
        super().log(logs, start_time)

    def _rates(self) -> dict[str, float]:
        """`throughput.rates` since the last line, both responses of a pair counted; every rank must call it."""
        counts = torch.tensor(self._counts, dtype=torch.float32, device=self.args.device)
        total = dict(zip(_COUNTS, self.accelerator.reduce(counts, reduction="sum").tolist(), strict=True))
        self._counts = [0] * len(_COUNTS)
        flops, peak = self._work
        all_peaks = None if peak is None else peak * self.accelerator.num_processes
        return rates(total, self.stopwatch.read(), flops, all_peaks)

    @functools.cached_property
    def _work(self) -> tuple[ModelFlops | None, float | None]:
        """With the forward of the reference: the frozen copy, or with LoRA the model without its adapter."""
        flops, peak = flops_and_peak(self.args, self.model)
        return (None if flops is None else flops + ModelFlops.of(self.model, forward_only=True)), peak

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.stopwatch.paused():
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        taught = {"objective": "dpo", "beta": self.args.beta, "max_length": self.args.max_length, "rows": self._rows}
        save_derta_config(self, output_dir, taught)

    def create_model_card(self, model_name: str | None = None, dataset_name: Any = None, tags: Any = None) -> None:
        facts = [
            f"Objective: `dpo` (direct preference optimisation, beta {self.args.beta})",
            f"Rows: {self._rows['pairs']} pairs of a safe and a harmful response; {self._rows['left_out']} left out",
        ]
        create_card(self, model_name, tags, facts)


def make_dpo_trainer(
    model: Any, reference: Any, rows: LoadedRows, *, drop_long_prompts: bool, **kwargs: Any
) -> PairTrainer:
    """DPO on the triples of the data; helpful rows hold no pair and are left out.

    Args:
        reference: the model the policy is kept near; None with LoRA, where it is the model without its adapter.
        drop_long_prompts: leave pairs out whose prompt alone fills max_length, instead of refusing them.

    Raises:
        InputError: no triples; prompts that fill `max_length`.
    """
    pairs = rows.dataset.filter(lambda row: bool(row["chosen"]) and bool(row["rejected"]), desc="Selecting pairs")
    if len(pairs) == 0:
        raise InputError("objective=dpo needs triples (chosen and rejected), and the data hold none")
    args = kwargs["args"]
    examples = tokenize_table(pairs, kwargs["processing_class"], refusal=None, num_proc=args.dataset_num_proc)
    fitting = without_long_prompts(examples, args.max_length, drop=drop_long_prompts)
    counts = {
        "pairs": len(fitting),
        "dropped_pairs": len(pairs) - len(fitting),
        "left_out": len(rows.dataset) - len(fitting),
    }
    logger.info("dpo: %d pairs; %d rows left out", counts["pairs"], counts["left_out"])
    token_ids = fitting.select_columns(["id", "prompt_ids", "chosen_ids", "rejected_ids"])
    return PairTrainer(model, reference, train_dataset=token_ids, rows=counts, **kwargs)
