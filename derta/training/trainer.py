"""DeRTaTrainer: TRL's SFTTrainer on rows that say, token by token, which objective they serve.

RTO is data (rewritten labels) on TRL's fused LM head: one forward, no [B, L, V] logits. What is overridden is only
what has to know of the second objective: rows (collator, order), counting (`get_batch_samples`), loss and curves.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from derta.config import Arm
from derta.errors import InputError
from derta.models.conversation import check_tokenizer
from derta.models.run_date import taught_date
from derta.models.template_date import fix_date
from derta.objective.loss import count_objectives, objective_loss, objective_scales
from derta.objective.refusal_token import resolve_refusal_token
from derta.objective.rows import RowBuilder, View
from derta.training.ablation import ABLATED, DirectionPrompts, TrainingDirection, WithAblation
from derta.training.card import WithModelCard
from derta.training.collator import DeRTaCollator, EpochClock
from derta.training.config import DeRTaConfig
from derta.training.dataset import TABLE_COLUMNS, RowReport, build_row_table, fill_up
from derta.training.guards import ROW_IDS, WithGuards
from derta.training.head import score_supervised_positions
from derta.training.metrics import TokenSums
from derta.training.sampler import GlobalBatchSampler
from derta.training.throughput import WithThroughput

RUN_INFO_KEYS = (
    "objective",
    "rto_weight",
    "mle_weight",
    "rto_dropout",
    "rto_at_end",
    "zero_prefix_fraction",
    "mle_copies",
    "transition_copies",
    "transition_tokens",
    "normalization",
    "max_length",
)
_NO_LIMIT = 1 << 30
# Attention implementations that keep flattened rows apart by their position ids.
_PACKED_ATTENTION = {"sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"}


class DeRTaTrainer(WithModelCard, WithAblation, WithGuards, WithThroughput, SFTTrainer):
    """Safety fine-tuning on triples and helpful rows (DeRTa, arXiv 2407.09121).

    Args:
        model: a causal language model, or the name of one.
        args: DeRTaConfig.
        train_dataset: TRL preference rows (prompt, chosen = safe response, rejected = harmful response), mixed with
            rows without `rejected` (helpful), plain or conversational; or prompt-completion or messages rows.
        eval_dataset: rows of the same kinds; their loss is reported with the draws of epoch 0.
        processing_class: the tokenizer (required: rows are tokenised before the model is wrapped).
        peft_config, callbacks, optimizers: as in SFTTrainer.

    Attributes:
        refusal_token: the resolved RefusalToken, also stored with the model in derta_config.json.
        row_report: RowReport of the training data.
        skip_grad_norm_above: leave updates with a larger gradient norm out (see WithGuards); None takes them all.

    Raises:
        InputError: a tokenizer, data or arguments that cannot be trained on; see the functions it calls.

    Example:
        >>> trainer = DeRTaTrainer(model, args=DeRTaConfig(output_dir="out"), train_dataset=rows,
        ...                        processing_class=tokenizer)
        >>> trainer.train()
    """

    _tag_names = ["trl", "derta"]
    _name = "DeRTa"
    _paper = {
        "title": "Refuse Whenever You Feel Unsafe: Improving Safety in LLMs via Decoupled Refusal Training",
        "id": "2407.09121",
    }
    # The counts are those of the whole step; else transformers divides the loss of models whose forward takes no loss
    # arguments by the accumulation steps once more.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: DeRTaConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ):
        if processing_class is None:
            raise InputError("DeRTaTrainer needs processing_class=tokenizer: rows are tokenised with its chat template")
        check_tokenizer(processing_class, needs_chat_template=False)
        fix_date(processing_class, taught_date(args.output_dir))
        if args.n_gpu > 1:
            raise InputError(
                f"one process sees {args.n_gpu} GPUs, and torch's DataParallel cannot split this loss: start one "
                f"process per GPU (torchrun --nproc_per_node {args.n_gpu}), or show it one (CUDA_VISIBLE_DEVICES=0)"
            )
        self.refusal_token = resolve_refusal_token(processing_class, args.refusal_text, args.refusal_token_ids)
        # Every rank tokenises for itself, at the same time: there is no cache that one could fill for the others.
        train_table, self.row_report = self._build_table(train_dataset, processing_class, args)
        if isinstance(eval_dataset, dict):
            eval_dataset = {
                name: self._build_eval_table(rows, processing_class, args) for name, rows in eval_dataset.items()
            }
        elif eval_dataset is not None:
            eval_dataset = self._build_eval_table(eval_dataset, processing_class, args)
        self._epoch = EpochClock()
        self._builder = RowBuilder(
            refusal=self.refusal_token,
            max_length=args.max_length or _NO_LIMIT,
            seed=args.seed,
            rto_dropout=args.rto_dropout,
            rto_at_end=args.rto_at_end,
            zero_prefix_fraction=args.zero_prefix_fraction,
            transition_tokens=args.transition_tokens,
            ablation_probability=args.ablation_probability,
        )
        # TRL prepares rows once, for one objective; ours are rows already. It also refuses padding_free with a
        # max_length that it would not enforce: the collator does.
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}  # type: ignore[dict-item]
        max_length, args.max_length = args.max_length, None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_table,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        args.max_length = max_length
        score_supervised_positions(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
        self._token_sums = {"train": TokenSums(self.step_watch), "eval": TokenSums(self.eval_watch)}
        if self.padding_free:
            self._check_attention(self.model)
        self.data_collator = DeRTaCollator(
            pad_token_id=processing_class.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=args.pad_to_multiple_of,  # type: ignore[arg-type]
            builder=self._builder,
            epoch=self._epoch,
        )
        self._eval_collator = replace(self.data_collator, epoch=EpochClock())  # its epoch stays 0
        self._rows_stay_apart = False  # known once the model is wrapped and can be run
        self._add_end_tokens(train_table)
        self._weights = torch.tensor([args.mle_weight, args.rto_weight], dtype=torch.float32)
        if args.ablation_probability > 0:
            self._direction = TrainingDirection(
                self,
                DirectionPrompts.of(train_table, args.ablation_prompts),
                positions=args.ablation_positions,
                layers=args.ablation_layers,
                refresh_steps=args.ablation_refresh_steps,
                refusal_id=self.refusal_token.start_id,
            )

    @staticmethod
    def _check_attention(model: PreTrainedModel) -> None:
        """Flattened rows must not see one another."""
        if model.config._attn_implementation not in _PACKED_ATTENTION:
            raise InputError(
                f"padding_free=True with attention {model.config._attn_implementation!r}: flattened rows would attend "
                f"to one another; use one of {sorted(_PACKED_ATTENTION)} (model.attn_implementation) or padded batches"
            )

    @torch.no_grad()
    def _check_rows_stay_apart(self, model: torch.nn.Module) -> None:
        """Change the first of two flattened rows: what the model says of the second must not change.

        Some architectures build their mask without position ids (OPT, Falcon, gpt-oss), others carry a state (Mamba);
        nothing in their configuration tells.
        """
        vocabulary, length = self.model.config.get_text_config().vocab_size, 8
        collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
        second = [(5 * i + 1) % vocabulary for i in range(length)]
        said = []
        was_training = model.training
        model.eval()
        for offset in (0, length):
            first = [(i + offset) % vocabulary for i in range(length)]
            rows = [{"input_ids": first, "labels": [-100] * length}, {"input_ids": second, "labels": second}]
            batch = self._prepare_inputs(collate(rows))
            said.append(model(**batch, use_cache=False, fused_lm_head=True).log_probs[:, length:].float())
        model.train(was_training)
        rounding = 1e-4 if self.model.dtype == torch.float32 and not self.args.bf16 and not self.args.fp16 else 5e-2
        if (said[0] - said[1]).abs().max() > rounding:
            raise InputError(
                f"padding_free=True: {type(self.accelerator.unwrap_model(model)).__name__} with attention "
                f"{self.model.config._attn_implementation!r} lets flattened rows see one another; use padded batches, "
                "or another model.attn_implementation"
            )

    def _add_end_tokens(self, table: Dataset) -> None:
        """Generation stops where the rows end their turns; a base model's own configuration may not know that token."""
        config = self.model.generation_config
        known = config.eos_token_id
        ends = [known] if isinstance(known, int) else list(known or [])
        sample = table.select(range(min(1000, len(table))))
        learned = {ids[-1] for name in ("chosen_ids", "rejected_ids") for ids in sample[name] if ids}
        if new := sorted(learned - set(ends)):
            config.eos_token_id = [*ends, *new]

    def _build_table(
        self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: DeRTaConfig, *, for_training: bool = True
    ) -> tuple[Dataset, RowReport]:
        return build_row_table(
            rows,
            tokenizer,
            self.refusal_token,
            arm=Arm(args.objective),
            max_length=args.max_length or _NO_LIMIT,
            mle_copies=args.mle_copies,
            transition_copies=args.transition_copies,
            transition_tokens=args.transition_tokens,
            rto_at_end=args.rto_at_end,
            drop_long_prompts=args.drop_long_prompts,
            num_proc=args.dataset_num_proc,
            for_training=for_training,
        )

    def _build_eval_table(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: DeRTaConfig) -> Dataset:
        """Every row once, and none twice: whole batches for every rank, filled up with rows that do not count."""
        table, _ = self._build_table(rows, tokenizer, args, for_training=False)
        return table if args.world_size == 1 else fill_up(table, args.eval_batch_size * args.world_size)

    # Order and rows of an epoch

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(TABLE_COLUMNS)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> GlobalBatchSampler:
        args = self.args
        self._sampler = GlobalBatchSampler(
            self.train_dataset["length"],  # the dataset handed in has lost this column, which no row needs
            args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
            seed=args.seed,
            shuffle=args.shuffle,
        )
        return self._sampler

    def _run_epoch(self, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:  # resumed at the last step: it would take one more
            self.control.should_training_stop = True
            return None
        # transformers reaches the sampler through accelerate's wrappers, but not once batches are skipped on a resume.
        self._epoch.set(kwargs["epoch"])
        self._sampler.set_epoch(kwargs["epoch"])
        if self.padding_free and not self._rows_stay_apart:
            self._check_rows_stay_apart(kwargs["model"])
            self._rows_stay_apart = True
        return super()._run_epoch(**kwargs)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Losses of two epochs can only be compared on the same rows, so evaluation always draws as in epoch 0."""
        if isinstance(eval_dataset, Dataset) and "view" not in eval_dataset.column_names:  # rows, not yet a table
            tokenizer: Any = self.processing_class
            eval_dataset = self._build_eval_table(eval_dataset, tokenizer, self.args)
        training_collator, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    # Objective

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
        """int64 [2]: supervised MLE and RTO tokens of the global batch (all ranks, all accumulation steps)."""
        if not batch_samples:
            return None
        counts = torch.stack([count_objectives(batch["objective"]) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        if return_outputs:
            raise InputError("DeRTaTrainer builds no logits: compute_metrics and return_outputs are not available")
        inputs = dict(inputs)
        for name in (ROW_IDS, ABLATED):
            inputs.pop(name, None)
        objective, lengths = inputs.pop("objective"), inputs.pop("lengths")
        inputs["use_cache"] = False
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs, fused_lm_head=True)
        counts = count_objectives(objective) if num_items_in_batch is None else num_items_in_batch
        scales = objective_scales(counts, self._weights, self.args.normalization)
        loss = objective_loss(outputs.log_probs, objective[:, 1:], scales)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the counts are global, and DDP averages over the ranks
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._token_sums["train" if self.model.training else "eval"].add(
            outputs.log_probs, outputs.is_top1, objective[:, 1:], lengths, inputs["input_ids"].numel()
        )
        return self.watched(loss) if self.model.training else loss

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        return super().prediction_step(model, inputs, True, ignore_keys)

    # Curves and files

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        work = self.work_and_peak() if mode == "train" else (None, None)
        curves, prefix = self._token_sums[mode].drain(self.accelerator, *work), ""
        if mode == "train" and curves:
            history = reversed(self.state.log_history)  # of the parts of the run before an interruption, too
            curves["num_tokens"] += next((entry["num_tokens"] for entry in history if "num_tokens" in entry), 0)
            curves.update(self.drain_skipped_steps())
            curves["truncated_share"] = self.row_report.truncated_share
            curves["dropped_share"] = self.row_report.dropped_share
        elif curves:
            # eval_loss, or eval_NAME_loss with several sets. transformers' is a mean over batches, which depends on how
            # the set is cut into them; this one is over all tokens (and without a router's own loss).
            key = next((key for key in logs if key.startswith("eval_") and key.endswith("_loss")), "eval_loss")
            prefix, logs[key] = key.removesuffix("loss"), self._loss_over(curves)
        logs.update({prefix + name: value for name, value in curves.items()})
        Trainer.log(self, logs, start_time)  # past SFTTrainer.log, whose averages of ratios ours replace

    def _loss_over(self, curves: dict[str, float]) -> float:
        """The objective over all tokens of a window, from its curves."""
        counts = torch.tensor([curves["mle_tokens"], curves["rto_tokens"]]).long()
        nll = torch.tensor([curves.get("mle_loss", 0.0), curves.get("rto_loss", 0.0)]) * counts
        return float(objective_scales(counts, self._weights, self.args.normalization)[1:] @ nll)

    def derta_config(self) -> dict[str, Any]:
        return {
            **{key: getattr(self.args, key) for key in RUN_INFO_KEYS},
            **({} if self._direction is None else {"ablation": asdict(self.args.ablation())}),
            "refusal_token": self.refusal_token.to_dict(),
            "rows": self.row_report.to_dict(),
        }

    def card_facts(self) -> list[str]:
        refusal, rows = self.refusal_token, self.row_report
        return [
            f"Objective: `{self.args.objective}`",
            f"Refusal token: {refusal}",
            *(["Trained with the refusal direction ablated: `objective.ablation`"] if self._direction else []),
            f"Rows: {rows.mle_rows} MLE, {rows.rto_rows} RTO; {rows.truncated_rows} truncated, "
            f"{rows.dropped_examples} examples dropped",
        ]

    def sample_texts(self, count: int) -> list[tuple[str, str, str]]:
        """(row id, view, decoded supervised text) of the first rows; for the user's own eyes only."""
        samples = []
        table: Any = self.train_dataset
        tokenizer: Any = self.processing_class
        for entry in table.select(range(min(count, len(table)))):
            row = self._builder.build(entry, entry["view"], entry["copy"], epoch=0)  # type: ignore[arg-type]
            supervised = [label for label in row["labels"] if label != -100]
            samples.append((entry["id"], View(entry["view"]).name, tokenizer.decode(supervised)))
        return samples
