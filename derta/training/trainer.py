"""DeRTaTrainer: TRL's SFTTrainer on rows that say, token by token, which objective they serve.

RTO is data (rewritten labels) on TRL's fused LM head: one forward, no [B, L, V] logits. Every hook of the Trainer that
is overridden stands here once, in the order in which a run calls them; only what has to know of the second objective is
ours (rows, their order, counting, loss, curves), and what else watches a step is an object that a hook calls:

    rows    GlobalBatchSampler, DeRTaCollator          guards      losses and gradients that are not finite, outliers
    curves  TokenSums, Stopwatch                       ablation    rows without the refusal direction, where it is on
                                                       reference   log-probabilities before the first step, where the
                                                                   arm holds the model against them
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from trl import SFTTrainer

from derta.errors import InputError
from derta.models.conversation import check_tokenizer
from derta.models.flops import ModelFlops
from derta.models.load import add_end_tokens, check_adapted_ends
from derta.models.quantized import ready_for_training
from derta.models.run_date import taught_date
from derta.models.template_date import fix_date
from derta.objective.loss import count_objectives, objective_loss, objective_scales
from derta.objective.reference import reference_scores
from derta.objective.refusal_token import taught_refusal_token
from derta.objective.rows import RowBuilder
from derta.training.card import Origin, create_card, save_derta_config
from derta.training.checks import check_head, check_rows_stay_apart, decide_flattened
from derta.training.collator import ABLATED, REFERENCE, ROW_IDS, DeRTaCollator, epoch_clock
from derta.training.config import DeRTaConfig, library_names
from derta.training.dataset import TABLE_COLUMNS, build_row_table, fill_up
from derta.training.fsdp import SavesWhole
from derta.training.guards import Guards, logged_before
from derta.training.head import score_supervised_positions
from derta.training.kernels import settle_kernels
from derta.training.metrics import TokenSums
from derta.training.progress import show_progress
from derta.training.reference import ReferenceLogProbs
from derta.training.safe_starts import report_safe_starts
from derta.training.sampler import GlobalBatchSampler
from derta.training.throughput import Stopwatch, flops_and_peak
from derta.training.undisturbed import is_sharded

if TYPE_CHECKING:
    from derta.training.probe import RefusalProbe

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000  # rows, whose last tokens are those that turns end with


class DeRTaTrainer(SavesWhole, SFTTrainer):
    """Safety fine-tuning on triples and helpful rows (DeRTa, arXiv 2407.09121).

    Args:
        model: a causal language model, or the name of one.
        args: DeRTaConfig.
        train_dataset: TRL preference rows (prompt, chosen = safe response, rejected = harmful response), mixed with
            rows without `rejected` (helpful), plain or conversational; or prompt-completion or messages rows.
        eval_dataset: rows of the same kinds; their loss is reported with the draws of epoch 0.
        processing_class: the tokenizer (required: rows are tokenised before the model is wrapped).
        origin: where model and rows come from, for the model card.
        probe: measures P(refusal) on held-out rows while this trainer trains.
        peft_config, callbacks, optimizers: as in SFTTrainer.

    Attributes:
        refusal_token: the resolved RefusalToken, also stored with the model in derta_config.json; None for an arm that
            teaches none, where the tokenizer allows none.
        row_report: RowReport of the training data.
        stopwatch: runs during training steps; what happens between them is paused out of the rates.

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

    @library_names()
    def __init__(
        self,
        model: str | PreTrainedModel,
        args: DeRTaConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        origin: Origin | None = None,
        probe: RefusalProbe | None = None,
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
        self.origin = origin or Origin()
        settings = args.row_settings()
        needs_reference = settings.objective.name.rows.reference
        if needs_reference and eval_dataset is not None:
            raise InputError(
                f"objective={args.objective!r} holds rows against the model before its first step, and evaluation rows "
                "have no such reference: leave eval_dataset out"
            )
        self.refusal_token = taught_refusal_token(settings.objective, processing_class)
        self._builder = RowBuilder(refusal=self.refusal_token, settings=settings)
        # Every rank tokenises for itself, at the same time: there is no cache that one could fill for the others.
        self._build_table = functools.partial(
            build_row_table,
            tokenizer=processing_class,
            refusal=self.refusal_token,
            settings=settings,
            num_proc=args.dataset_num_proc,
        )
        train_table, self.row_report = self._build_table(train_dataset)
        if self.refusal_token is not None and settings.objective.name.rows.rto:
            report_safe_starts(train_table, self.refusal_token, args.refusal_token_ids)
        if isinstance(eval_dataset, dict):
            eval_dataset = {name: self._build_eval_table(rows, args) for name, rows in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = self._build_eval_table(eval_dataset, args)
        # TRL prepares rows once, for one objective; ours are rows already. It also refuses padding_free with a
        # max_length that it would not enforce: the collator does. And it does not know padding_free="auto".
        args.dataset_kwargs = {**(args.dataset_kwargs or {}), "skip_prepare_dataset": True}  # type: ignore[dict-item]
        max_length, padding_free = args.max_length, args.padding_free
        args.max_length, args.padding_free = None, False
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_table,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        args.max_length, args.padding_free = max_length, padding_free
        is_adapter = isinstance(self.model, PeftModel)
        if is_adapter:
            check_adapted_ends(self.model)
            ready_for_training(self.model)
            if self.refusal_token is not None and self.refusal_token.is_reset:
                said = "LoRA trains no row of the LM head, that of the reset token %r included: %s"
                remedy = "name a token that the model knows (objective.reset_token), or train without LoRA (peft=none)"
                logger.warning(said, self.refusal_token.continued_text, remedy)
        score_supervised_positions(self.model.get_base_model() if is_adapter else self.model)
        self.padding_free = decide_flattened(self)
        settle_kernels(self)
        sample = train_table.select(range(min(_LOOKED_AT, len(train_table))))
        responses = [*sample["chosen_ids"], *sample["rejected_ids"]]
        add_end_tokens(self.model, sorted({ids[-1] for ids in responses if ids}))
        self._weights = torch.tensor([args.mle_weight, args.rto_weight], dtype=torch.float32)
        self._epoch = epoch_clock()
        self.data_collator = DeRTaCollator(
            pad_token_id=processing_class.pad_token_id,
            padding_free=self.padding_free,
            pad_to_multiple_of=args.pad_to_multiple_of,  # type: ignore[arg-type]
            builder=self._builder,
            epoch=self._epoch,
        )
        self._eval_collator = replace(self.data_collator, epoch=epoch_clock())  # its epoch stays 0
        self._is_checked = False  # known once the model is wrapped and can be run
        self.guards, self.stopwatch = Guards(self, args.skip_grad_norm_above), Stopwatch()
        self._token_sums = {"train": TokenSums(self.stopwatch, args.objective), "eval": TokenSums(Stopwatch())}
        self.reference = ReferenceLogProbs(self, self._builder) if needs_reference else None
        ablation, self.ablation = self._builder.settings.objective.ablation, None
        if ablation.probability > 0:
            from derta.training.ablation import TrainingDirection, direction_prompts

            prompts = direction_prompts(train_table, ablation.prompts)
            assert self.refusal_token is not None
            self.ablation = TrainingDirection(self, prompts, ablation, self.refusal_token.start_id)
        show_progress(self)
        if probe is not None:
            probe.attach(self)

    def _build_eval_table(self, rows: Dataset, args: DeRTaConfig) -> Dataset:
        """Every row once, and none twice: whole batches for every rank, filled up with rows that do not count."""
        table, _ = self._build_table(rows, for_training=False)
        return table if args.world_size == 1 else fill_up(table, args.eval_batch_size * args.world_size)

    # Training begins

    @library_names()
    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.stopwatch.stop()
        return super().train(*args, **kwargs)

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

    # An epoch begins

    def _run_epoch(self, **kwargs: Any) -> Any:
        if self.state.global_step >= self.state.max_steps:  # resumed at the last step: it would take one more
            self.control.should_training_stop = True
            return None
        if kwargs["epoch"] == kwargs["epochs_trained"]:
            checkpoint = kwargs["resume_from_checkpoint"]
            self.guards.begin(kwargs["model"])
            rows, batch = len(self.train_dataset), self._sampler.batch
            if repeated := len(self._sampler) - rows:
                said = "an epoch is %d rows in %d steps of %d: the last step repeats %d rows"
                logger.info(said, rows, len(self._sampler) // batch, batch, repeated)
            if self.reference is not None:
                self.reference.begin(None if checkpoint is None else Path(checkpoint))
            if self.ablation is not None:
                self.ablation.load(None if checkpoint is None else Path(checkpoint))
        # transformers reaches the sampler through accelerate's wrappers, but not once batches are skipped on a resume.
        self._epoch.fill_(kwargs["epoch"])
        self._sampler.set_epoch(kwargs["epoch"])
        return super()._run_epoch(**kwargs)

    # A step

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples, counts = super().get_batch_samples(*args, **kwargs)
        if not self._is_checked and samples:
            self._is_checked = True
            check_head(self, samples[0], 0 if self.refusal_token is None else self.refusal_token.continued_id)
            if self.padding_free and is_sharded(self):  # others were run when they were made
                check_rows_stay_apart(self)
        self.guards.begin_step(samples)
        self.stopwatch.start()
        return samples, counts

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
        """int64 [2]: supervised MLE and RTO tokens of the global batch (all ranks, all accumulation steps)."""
        if not batch_samples:
            return None
        counts = torch.stack([count_objectives(batch["objective"]) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        with contextlib.nullcontext() if self.ablation is None else self.ablation.ablated(inputs):
            return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        if return_outputs:
            raise InputError("DeRTaTrainer builds no logits: compute_metrics and return_outputs are not available")
        inputs = {name: value for name, value in inputs.items() if name not in (ROW_IDS, ABLATED)}
        objective, lengths, reference = inputs.pop("objective"), inputs.pop("lengths"), inputs.pop(REFERENCE, None)
        inputs["use_cache"] = False
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        # Past SFTTrainer.compute_loss, which knows one objective and gathers its averages at every micro-batch.
        outputs = model(**inputs, fused_lm_head=True)
        counts = count_objectives(objective) if num_items_in_batch is None else num_items_in_batch
        scales = objective_scales(counts, self._weights, self.args.normalization)
        scores = outputs.log_probs
        if reference is not None:
            against = reference[:, 1:].view(torch.float32)
            scores = reference_scores(self._builder.settings.objective, scores, objective[:, 1:], against)
        loss = objective_loss(scores, objective[:, 1:], scales)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the counts are global, and DDP averages over the ranks
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._token_sums["train" if self.model.training else "eval"].add(
            outputs.log_probs, outputs.is_top1, objective[:, 1:], lengths, inputs["input_ids"].numel(), scores
        )
        return self.guards.watched(loss) if self.model.training else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        return self.guards.check(model, super()._get_grad_norm(model, grad_norm=grad_norm))

    # Between two steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        work = self._work if mode == "train" else (None, None)
        curves, prefix = self._token_sums[mode].drain(self.accelerator, *work), ""
        if mode == "train" and curves:
            curves["num_tokens"] += logged_before(self, "num_tokens")
            curves |= self.guards.curves()
            curves |= self.row_report.shares()
        elif curves:
            # eval_loss, or eval_NAME_loss with several sets. transformers' is a mean over batches, which depends on how
            # the set is cut into them; this one is over all tokens (and without a router's own loss).
            key = next((key for key in logs if key.startswith("eval_") and key.endswith("_loss")), "eval_loss")
            prefix, logs[key] = key.removesuffix("loss"), self._loss_over(curves)
        logs.update({prefix + name: value for name, value in curves.items()})
        Trainer.log(self, logs, start_time)  # past SFTTrainer.log, whose averages of ratios ours replace

    @functools.cached_property
    def _work(self) -> tuple[ModelFlops | None, float | None]:
        return flops_and_peak(self.args, self.model)

    def _loss_over(self, curves: dict[str, float]) -> float:
        """The objective over all tokens of a window, from its curves."""
        counts = torch.tensor([curves["mle_tokens"], curves["rto_tokens"]]).long()
        nll = torch.tensor([curves.get("mle_loss", 0.0), curves.get("rto_loss", 0.0)]) * counts
        return float(objective_scales(counts, self._weights, self.args.normalization)[1:] @ nll)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.stopwatch.paused():
            return super().evaluate(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Losses of two epochs can only be compared on the same rows, so evaluation always draws as in epoch 0."""
        if isinstance(eval_dataset, Dataset) and "view" not in eval_dataset.column_names:  # rows, not yet a table
            eval_dataset = self._build_eval_table(eval_dataset, self.args)
        training_collator, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator
            watch = self._token_sums["eval"].watch
            watch.stop()
            watch.start()

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        return super().prediction_step(model, inputs, True, ignore_keys)  # the loss alone: there are no logits

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.stopwatch.paused():
            super()._save_checkpoint(model, trial)
            if self.ablation is not None and self.is_world_process_zero():
                self.ablation.save(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")

    # What is left

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        taught = self._builder.settings.to_dict()
        token = None if self.refusal_token is None else self.refusal_token.to_dict()
        save_derta_config(self, output_dir, {**taught, "refusal_token": token, "rows": self.row_report.to_dict()})

    def create_model_card(self, model_name: str | None = None, dataset_name: Any = None, tags: Any = None) -> None:
        facts = [
            f"Objective: `{self.args.objective}`",
            *([] if self.refusal_token is None else [f"Refusal token: {self.refusal_token}"]),
            *(["Trained with the refusal direction ablated: `objective.ablation`"] if self.ablation else []),
            f"Rows: {self.row_report}",
        ]
        create_card(self, model_name, tags, facts)
