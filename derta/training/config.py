"""DeRTaConfig: TRL's SFTConfig and the fields of the objective."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

from derta.config import AblationConfig, Arm, ObjectiveConfig
from derta.errors import InputError
from derta.objective.rows import NO_LIMIT, RowSettings

_DEFAULTS = ObjectiveConfig()
_OF_OBJECTIVE = tuple(ObjectiveConfig.__dataclass_fields__.keys() - {"name", "dpo_beta", "ablation"})
# Keys of the command line, which the rooms below know, and what the library calls them.
_ARGUMENTS = {
    "objective.ablation.": "ablation_",
    "objective.": "",
    "data.max_length": "max_length",
    "data.long_prompts=drop": "drop_long_prompts=True",
    "model.chat_template": "tokenizer.chat_template",
    "model.pad_token": "tokenizer.pad_token",
    "model.eos_token": "tokenizer.eos_token",
    "model.attn_implementation": "attn_implementation",
    "trainer.padding_free=false": "padding_free=False",
    "trainer.padding_free": "padding_free",
    "trainer.skip_grad_norm_above": "skip_grad_norm_above",
    "peft.target_modules": "target_modules",
}
# Arguments of SFTConfig that DeRTaTrainer has another way for: allowed values, and why no other one is.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "packing": ((False,), "rows are rebuilt every epoch; use padding_free=True instead"),
    "eval_packing": ((None, False), "evaluation rows are not packed; use padding_free=True instead"),
    "packing_strategy": (("bfd",), "rows are not packed; leave it out"),
    "loss_type": (("nll",), "the objective is its own loss; leave it at 'nll'"),
    "label_smoothing_factor": ((0, 0.0), "it would smooth the refusal target; leave it at 0"),
    "completion_only_loss": ((None, True), "prompts and harmful prefixes are never supervised; leave it out"),
    "assistant_only_loss": ((False,), "of a conversation the last response alone is supervised; leave it out"),
    "train_sampling_strategy": (
        ("random", "sequential"),
        "global batches do not depend on how they are split, and are sorted by length inside; use shuffle",
    ),
    "dataloader_drop_last": (
        (False,),
        "the last global batch is completed with rows of the epoch's start; leave it out",
    ),
    "shuffle_dataset": ((False,), "use shuffle, which draws a new order every epoch"),
    "truncation_mode": (("keep_start",), "rows lose the end of their response; leave it out"),
    "dataset_text_field": (("text",), "rows have the columns prompt, chosen and rejected; leave it out"),
    "chat_template_path": ((None,), "rows are tokenised before it would be read; set tokenizer.chat_template"),
    "eos_token": ((None,), "rows are tokenised before it would be set; set tokenizer.eos_token"),
    "pad_token": ((None,), "set tokenizer.pad_token"),
    "auto_find_batch_size": ((False,), "it would change the global batch; choose per_device_train_batch_size"),
    "average_tokens_across_devices": ((True,), "tokens are counted over all ranks; leave it at True"),
    "include_for_metrics": (([],), "no logits are built, so there is nothing to compute metrics from; leave it out"),
    "batch_eval_metrics": ((False,), "no logits are built, so there is nothing to compute metrics from; leave it out"),
}


class ArgumentError(InputError):
    """An InputError in the words of the library; `of_command` is the same in those of the command line."""

    def __init__(self, of_command: InputError):
        found = str(of_command)
        super().__init__(functools.reduce(lambda text, key: text.replace(key, _ARGUMENTS[key]), _ARGUMENTS, found))
        self.of_command = of_command


@contextlib.contextmanager
def library_names() -> Iterator[None]:
    """Errors of the body name arguments of the library instead of keys of the command line."""
    try:
        yield
    except ArgumentError:
        raise
    except InputError as error:
        raise ArgumentError(error) from error.__cause__


@contextlib.contextmanager
def command_names() -> Iterator[None]:
    """Errors of the body name keys of the command line again: for a command that uses the library."""
    try:
        yield
    except ArgumentError as error:
        raise error.of_command from error.__cause__


@dataclass
class DeRTaConfig(SFTConfig):
    """Arguments of DeRTaTrainer: everything of `trl.SFTConfig`, and what `derta.config.ObjectiveConfig` documents.

    Parameters:
        objective: an arm of `derta.config.Arm` other than "dpo".
        refusal_text, refusal_token_ids, reset_token, rto_weight, mle_weight, rto_dropout, rto_at_end,
        zero_prefix_fraction, redraw, mle_copies, transition_copies, transition_tokens, normalization,
        constrained_betas, door_beta, weight_model, weight_tau, weight_max: see ObjectiveConfig, whose defaults hold
        here too.
        ablation_probability, ablation_refresh_steps, ablation_prompts, ablation_positions, ablation_layers: see
            AblationConfig.
        peak_flops: FLOP/s of one device in the precision of the run, for `mfu`; None takes it from a table of known
            GPUs, and leaves `mfu` out where the table has none.
        drop_long_prompts: leave rows out whose prompt alone fills max_length, instead of refusing them.
        padding_free: flattened batches: True, False, or "auto" (see `derta.training.checks.decide_flattened`).
        skip_grad_norm_above: leave updates with a larger global gradient norm out and count them; None takes them all.
        shuffle: draw a new order of the rows every epoch (train_sampling_strategy="sequential" turns it off).

    Raises:
        InputError: values out of range, and arguments of SFTConfig that would have no effect; all listed at once.
    """

    objective: str = field(default=_DEFAULTS.name.value)
    refusal_text: str = field(default=_DEFAULTS.refusal_text)
    refusal_token_ids: list[int] | None = None
    reset_token: str | None = None
    rto_weight: float = field(default=_DEFAULTS.rto_weight)
    mle_weight: float = field(default=_DEFAULTS.mle_weight)
    rto_dropout: float = field(default=_DEFAULTS.rto_dropout)
    rto_at_end: bool = field(default=_DEFAULTS.rto_at_end)
    zero_prefix_fraction: float = field(default=_DEFAULTS.zero_prefix_fraction)
    redraw: bool = field(default=_DEFAULTS.redraw)
    mle_copies: int = field(default=_DEFAULTS.mle_copies)
    transition_copies: int = field(default=_DEFAULTS.transition_copies)
    transition_tokens: int = field(default=_DEFAULTS.transition_tokens)
    normalization: str = field(default=_DEFAULTS.normalization)
    door_beta: float = field(default=_DEFAULTS.door_beta)
    weight_model: str | None = None
    weight_tau: float = field(default=_DEFAULTS.weight_tau)
    weight_max: float = field(default=_DEFAULTS.weight_max)
    constrained_betas: list[float] = field(default_factory=lambda: list(_DEFAULTS.constrained_betas))
    ablation_probability: float = field(default=_DEFAULTS.ablation.probability)
    ablation_refresh_steps: int = field(default=_DEFAULTS.ablation.refresh_steps)
    ablation_prompts: int = field(default=_DEFAULTS.ablation.prompts)
    ablation_positions: list[int] = field(default_factory=lambda: list(_DEFAULTS.ablation.positions))
    ablation_layers: list[int] | None = None
    padding_free: bool | str = "auto"  # type: ignore[assignment]
    drop_long_prompts: bool = False
    skip_grad_norm_above: float | None = None
    shuffle: bool = True
    peak_flops: float | None = None

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.bf16 = bool(self.bf16)  # TRL's default is bfloat16, which CPUs compute slowly
        super().__post_init__()
        problems = []
        arms = [arm.value for arm in Arm if arm is not Arm.dpo]
        if self.objective not in arms:
            problems.append(f"objective={self.objective!r}: expected one of {arms} (for DPO use trl.DPOTrainer)")
        arm = self.objective if self.objective in arms else _DEFAULTS.name.value
        if self.padding_free not in ("auto", True, False):
            problems.append(f"padding_free={self.padding_free!r}: expected 'auto', True or False")
        found = self._objective(arm).problems(lambda key: key.replace("ablation.", "ablation_"))
        problems += [problem.replace("null", "None") for problem in found]
        for name, what in (("peak_flops", "FLOP/s of one device"), ("skip_grad_norm_above", "a gradient norm")):
            if (value := getattr(self, name)) is not None and not value > 0:
                problems.append(f"{name}={value}: expected {what}, or None")
        problems += self._without_effect()
        if problems:
            raise InputError.listing("DeRTaConfig:", problems)
        self.shuffle = self.shuffle and self.train_sampling_strategy != "sequential"

    def row_settings(self) -> RowSettings:
        return RowSettings(
            objective=self._objective(self.objective),
            max_length=self.max_length or NO_LIMIT,
            seed=self.seed,
            drop_long_prompts=self.drop_long_prompts,
        )

    def _objective(self, arm: str) -> ObjectiveConfig:
        ablation = {name: getattr(self, f"ablation_{name}") for name in AblationConfig.__dataclass_fields__}
        return ObjectiveConfig(
            name=Arm(arm),
            ablation=AblationConfig(**ablation),
            **{name: getattr(self, name) for name in _OF_OBJECTIVE},
        )

    def _without_effect(self) -> list[str]:
        """Arguments that the trainer would pass over in silence."""
        found = [
            f"{name}={value!r}: {reason}"
            for name, (allowed, reason) in _FIXED.items()
            if (value := getattr(self, name)) not in allowed
        ]
        if self.data_seed not in (None, self.seed):
            found.append(f"data_seed={self.data_seed}: all draws come from seed={self.seed}; leave it out")
        if unknown := sorted(set(self.dataset_kwargs or {}) - {"skip_prepare_dataset"}):
            found.append(f"dataset_kwargs: {', '.join(unknown)} would be ignored; leave it out")
        for name in ("split_batches", "dispatch_batches"):
            if getattr(self.accelerator_config, name, None):
                found.append(f"accelerator_config.{name}: every rank cuts its own batches; leave it out")
        return found
