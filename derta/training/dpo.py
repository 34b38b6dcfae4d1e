"""The dpo arm: TRL's DPOTrainer on the same triples (chosen = safe response, rejected = harmful response).

The paper runs one DPO epoch on top of the vanilla model: give that as model.name_or_path.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from derta.data.load import LoadedRows
from derta.errors import InputError
from derta.models.flops import ModelFlops
from derta.training.card import WithModelCard
from derta.training.dataset import token_lengths, tokenize_table
from derta.training.guards import ROW_IDS, WithGuards
from derta.training.throughput import WithThroughput

logger = logging.getLogger(__name__)

_COUNTED = "counts"  # key of a batch; taken out before the model sees it
_COUNTS = ("tokens", "supervised", "slots", "squares")


def _count(batch: dict[str, Any]) -> list[int]:
    """Of a batch on the host, both responses of each pair: _COUNTS."""
    lengths = batch["attention_mask"].sum(dim=1)
    return [
        int(lengths.sum()),
        int(batch["completion_mask"].sum()),
        batch["input_ids"].numel(),
        int((lengths * lengths).sum()),
    ]


@dataclass
class PairConfig(DPOConfig):
    """DPOConfig and `peak_flops`: FLOP/s of one device for `mfu`, as in DeRTaConfig."""

    peak_flops: float | None = None


class PairTrainer(WithModelCard, WithGuards, WithThroughput, DPOTrainer):
    """DPOTrainer that leaves the same files beside its weights as DeRTaTrainer, and logs what becomes of its rows.

    Args:
        train_dataset: rows with prompt_ids, chosen_ids and rejected_ids.
        rows: pairs (how many there are), dropped_pairs (prompts that fill max_length) and left_out (all other rows of
            the data, dropped pairs included).
        row_ids: names of the rows of train_dataset, in its order.
    """

    _tag_names = ["trl", "dpo", "derta"]

    def __init__(self, *args: Any, rows: dict[str, int], row_ids: list[str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        lengths = token_lengths(self.train_dataset, ("prompt_ids", "chosen_ids", "rejected_ids"))
        truncated = sum(
            prompt + response > self.args.max_length
            for name in ("chosen_ids", "rejected_ids")
            for prompt, response in zip(lengths["prompt_ids"], lengths[name], strict=True)
        )
        self._rows = {**rows, "truncated_responses": truncated}
        self._counts = [0] * len(_COUNTS)
        self.train_dataset = self.train_dataset.add_column("id", row_ids)
        collate: Any = self.data_collator  # type: ignore[has-type]

        def collate_with_ids(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(examples)
            return {**batch, ROW_IDS: [example["id"] for example in examples], _COUNTED: _count(batch)}

        self.data_collator = collate_with_ids

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset  # tokenised as rows of the other arms are

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if "id" not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, "id"]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        found = super().get_batch_samples(*args, **kwargs)
        for batch in found[0]:
            counted = batch.pop(_COUNTED)
            self._counts = [before + more for before, more in zip(self._counts, counted, strict=True)]
        return found

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return self.watched(loss) if self.model.training and isinstance(loss, torch.Tensor) else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and "loss" in logs:
            pairs, dropped = self._rows["pairs"], self._rows["dropped_pairs"]
            logs["truncated_share"] = self._rows["truncated_responses"] / (2 * pairs)
            logs["dropped_share"] = dropped / (pairs + dropped)
            logs.update(self._rates())
        if self.model.training:
            logs.update(self.drain_skipped_steps())
        super().log(logs, start_time)

    def work_and_peak(self) -> tuple[ModelFlops | None, float | None]:
        """With the forward of the reference: the frozen copy, or with LoRA the model without its adapter."""
        if self._work is None:
            flops, peak = super().work_and_peak()
            if flops is not None:
                self._work = flops + ModelFlops.of(self.model, forward_only=True), peak
        return super().work_and_peak()

    def _rates(self) -> dict[str, float]:
        """Padding, tokens per second and MFU since the last line, both responses of a pair counted; over all ranks,
        each of which must call it."""
        counts = torch.tensor(self._counts, dtype=torch.float32, device=self.args.device)
        total = dict(zip(_COUNTS, self.accelerator.reduce(counts, reduction="sum").tolist(), strict=True))
        self._counts = [0] * len(_COUNTS)
        curves = {"padding_share": 1 - total["tokens"] / total["slots"]} if total["slots"] else {}
        if elapsed := self.step_watch.read():
            curves["tokens_per_second"] = total["tokens"] / elapsed
            curves["supervised_tokens_per_second"] = total["supervised"] / elapsed
            flops, peak = self.work_and_peak()
            if flops is not None and peak is not None:
                done = flops.total(**{name: total[name] for name in ("tokens", "supervised", "squares")})
                curves["mfu"] = done / (elapsed * peak * self.accelerator.num_processes)
        return curves

    def _run_epoch(self, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:  # resumed at the last step: it would take one more
            self.control.should_training_stop = True
            return None
        if self._total_train_tokens == 0:  # TRL counts from 0 again after a resume
            history = reversed(self.state.log_history)
            self._total_train_tokens = next((entry["num_tokens"] for entry in history if "num_tokens" in entry), 0)
        return super()._run_epoch(**kwargs)

    def derta_config(self) -> dict[str, Any]:
        return {"objective": "dpo", "beta": self.args.beta, "max_length": self.args.max_length, "rows": self._rows}

    def card_facts(self) -> list[str]:
        return [
            f"Objective: `dpo` (direct preference optimisation, beta {self.args.beta})",
            f"Rows: {self._rows['pairs']} pairs of a safe and a harmful response; {self._rows['left_out']} left out",
        ]


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
    fitting = _fitting_pairs(examples, args.max_length, drop_long_prompts)
    counts = {
        "pairs": len(fitting),
        "dropped_pairs": len(pairs) - len(fitting),
        "left_out": len(rows.dataset) - len(fitting),
    }
    logger.info("dpo: %d pairs; %d rows left out", counts["pairs"], counts["left_out"])
    token_ids = fitting.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    return PairTrainer(model, reference, train_dataset=token_ids, rows=counts, row_ids=fitting["id"], **kwargs)


def _fitting_pairs(pairs: Dataset, max_length: int, drop_long_prompts: bool) -> Dataset:
    """The pairs whose prompt leaves room for a response; TRL would drop the others without a word."""
    lengths = token_lengths(pairs, ["prompt_ids"])["prompt_ids"]
    long = [i for i, length in enumerate(lengths) if length >= max_length]
    if not long:
        return pairs
    if drop_long_prompts and len(long) < len(pairs):
        return pairs.select([i for i, length in enumerate(lengths) if length < max_length])
    raise InputError(
        f"{len(long)} of {len(pairs)} prompts fill data.max_length={max_length} tokens and leave no room for a "
        f"response (first: row {pairs[long[0]]['id']}; longest: {max(lengths)} tokens): raise data.max_length, or set "
        "data.long_prompts=drop to leave such rows out"
    )
