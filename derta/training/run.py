"""One training run, from a validated configuration to a directory that any Hugging Face tool loads.

prepare    configuration -> rows, tokenizer, identity          what can be refused is refused before the model is read
decide     start | go on from a checkpoint | finished          (resume.py)
build      model -> trainer with everything it needs
train      steps, watched for signals and for ranks that hang
finish     the final model at the root of the run
"""

import contextlib
import errno
import importlib.util
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from derta.config import Arm, PeftMethod, TrainRunConfig
from derta.config.failures import is_main_rank, world_size
from derta.config.paths import expand_home
from derta.data.guard import check_contamination
from derta.data.load import LoadedRows, load_rows
from derta.errors import InputError
from derta.models.conversation import ConversationCutter, check_tokenizer, is_raw_text
from derta.models.fingerprint import fingerprint
from derta.models.load import (
    check_lora_targets,
    check_positions,
    check_source,
    check_vocabulary,
    load_model,
    load_tokenizer,
)
from derta.models.precision import resolve_dtype
from derta.models.quantized import check_bitsandbytes, in_four_bits
from derta.models.run_date import settle_dates
from derta.storage.atomic import apply_umask, write_json_atomically
from derta.training import resume
from derta.training.arguments import arguments, final_dtype, lora_config, own_optimizer, weights_dtype
from derta.training.card import Origin
from derta.training.config import command_names
from derta.training.hangs import HangWatch
from derta.training.kernels import CompiledLayers, check_kernels, fuse
from derta.training.metrics import MetricsFile
from derta.training.preemption import StopAtStepBoundary, StopRequests
from derta.training.probe import load_probe_rows, make_probe
from derta.training.process_group import leave_group, main_rank_first, start_group
from derta.training.reference import check_weight_model
from derta.training.wandb_run import WandbCurves, end_wandb, resolve_mode

logger = logging.getLogger(__name__)

_FINAL_PARTIAL = ".final.partial"
_LARGE_MODEL = 100_000_000  # parameters; above it a miniature's learning rate destroys a pretrained model
_HIGH_LEARNING_RATE = 1e-4
_NOISY = ("accelerate", "httpx", "httpx2", "huggingface_hub", "datasets", "DeepSpeed", "torch.distributed")
# How torch and safetensors say that a write has failed: ENOSPC, EDQUOT, EFBIG, or nothing but where it was.
_FULL_DISK = ("os error 28", "os error 122", "os error 27", "No space left", "PytorchStreamWriter", "inline_container")


@dataclass(frozen=True)
class Prepared:
    """Everything of a run but its model. dtype: torch's name of the precision. identity: the content of config.yaml;
    of two starts with the same one, the second goes on with the first."""

    config: TrainRunConfig
    rows: LoadedRows
    probe_rows: LoadedRows | None
    tokenizer: Any
    dtype: str
    identity: dict[str, Any]

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)


def run_training(config: TrainRunConfig, before_the_model: Callable[[], None] = lambda: None) -> Path:
    """Train, and leave the model, its configuration and its curves in `config.output_dir`, which is returned.

    A run that is already finished is left as it is; an interrupted one is resumed (trainer.resume). Nothing is written
    before configuration, directory, rows, tokenizer and model have been found usable together.

    Args:
        before_the_model: what else has to be found out before a model is read (a hub that does not take it, say);
            called once everything cheaper has been found usable.

    Raises:
        InputError: anything in the configuration, data, model or directory that cannot be used.
        Preempted: a signal ended the run, after a checkpoint.
        NonFiniteStep: a loss or gradient was not finite; the step was not taken.
    """
    with StopRequests().noted() as requests:
        prepared = prepare(config)
        with main_rank_first():
            decision = resume.decide(prepared.output_dir, prepared.identity)
        before_the_model()
        if decision.is_finished:
            said = "%s is finished already; nothing to do (choose another output_dir to train again)"
            logger.info(said, config.output_dir)
        else:
            with _clean_up_after_failure(prepared.output_dir), command_names():
                _train(prepared, decision, requests)
    return prepared.output_dir


def prepare(config: TrainRunConfig) -> Prepared:
    """Read what is cheap to read, and find it usable together; with several ranks they have met behind it."""
    ranks = world_size()
    if problems := expand_home(config).problems():
        raise InputError.listing("this configuration cannot run:", problems)
    _check_machine(config)
    logging.basicConfig(level=logging.INFO if is_main_rank() else logging.ERROR, format="%(message)s")
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    rows = load_rows(config.data.path, config.data.format)
    check_contamination(config.data, rows)
    config.trainer.settle_batch(len(rows.dataset), ranks)
    if config.trainer.padding_free == "auto" and not torch.cuda.is_available():
        config.trainer.padding_free = False  # as runs from before there was a choice have it in their config.yaml

    check_kernels(config.trainer)
    check_source(config.model.name_or_path)
    settle_dates(config, recorded=resume.recorded_date(Path(config.output_dir)))
    tokenizer = load_tokenizer(config.model)
    has_chats = not all(map(is_raw_text, rows.dataset["prompt"]))
    check_tokenizer(tokenizer, needs_chat_template=has_chats)
    if has_chats:
        ConversationCutter(tokenizer).check()
    model_sha256 = fingerprint(config.model.name_or_path, config.model.revision)
    hashes = {"data_sha256": rows.sha256, "model_sha256": model_sha256}
    if config.objective.name.rows.weighted:
        assert config.objective.weight_model is not None  # a conflict of the settings
        hashes["weight_model_sha256"] = check_weight_model(config.objective.weight_model, tokenizer)
    probe_rows = load_probe_rows(config, rows.dataset)
    if probe_rows is not None:
        hashes["probe_sha256"] = probe_rows.sha256
    identity = resume.describe_run(config, ranks, **hashes)
    dtype = resolve_dtype(config.model)
    start_group(config.distributed)
    return Prepared(config, rows, probe_rows, tokenizer, dtype, identity)


def _check_machine(config: TrainRunConfig) -> None:
    """Raises InputError for what saves memory where there is no GPU to save it on, or no library that does it."""
    if config.peft.method is PeftMethod.qlora:
        check_bitsandbytes("peft=qlora")
    if (name := config.optim.name) == "adamw_kahan":
        if importlib.util.find_spec("optimi") is None:
            raise InputError(
                f"optim.name={name} needs torch-optimi, which is not installed: pip install 'derta[kahan]'"
            )
        if (dtype := resolve_dtype(config.model)) != "bfloat16":
            raise InputError(
                f"optim.name={name} is for weights in bfloat16, and here model.dtype={config.model.dtype} means "
                f"{dtype}: set model.dtype=bfloat16, or use adamw"
            )
    elif name != "adamw":
        check_bitsandbytes(f"optim.name={name}")
        if name.startswith("paged") and not torch.cuda.is_available():
            raise InputError(f"optim.name={name} needs a GPU, whose memory it pages out: use adamw or adamw_8bit")
    if config.trainer.activation_offloading and not torch.accelerator.is_available():
        raise InputError("trainer.activation_offloading=true needs a GPU: here the host's memory is the only one")


def _train(prepared: Prepared, decision: resume.Decision, requests: StopRequests) -> None:
    config, output_dir = prepared.config, prepared.output_dir
    stopper = StopAtStepBoundary(requests)
    watch = HangWatch(config.distributed.timeout_minutes * 60)
    curves = []
    if resolve_mode(config.logging.wandb_mode) != "disabled":
        curves.append(WandbCurves(config, decision.description))
    checkpoints = resume.Checkpoints(config.trainer.save_total_limit, decision.description)
    with resume.begun(output_dir, decision) if is_main_rank() else contextlib.nullcontext():
        # The stopper comes first: others look at the should_save that it sets.
        trainer = build_trainer(prepared, [stopper, MetricsFile(output_dir), checkpoints, *curves, watch])
    with watch.running():
        trainer.train(resume_from_checkpoint=str(decision.checkpoint) if decision.checkpoint else None)
    if stopper.stopped is not None:
        if is_main_rank():
            # torchrun hides the exit codes of its ranks.
            write_json_atomically(output_dir / resume.PREEMPTED_FILE, {"step": trainer.state.global_step})
            end_wandb()
        leave_group(trainer)
        raise stopper.stopped
    requests.finishing = True
    _finish(trainer, output_dir)


def build_trainer(prepared: Prepared, callbacks: list[TrainerCallback]) -> Any:
    """The model, read now, and the trainer of the configured arm with everything it needs."""
    config, rows, tokenizer = prepared.config, prepared.rows, prepared.tokenizer
    # Built before the model and kept: under ZeRO-3 its existence is what makes from_pretrained shard the weights.
    args = arguments(config, world_size=world_size(), dtype=prepared.dtype)
    held = weights_dtype(config, prepared.dtype)
    qlora = config.peft.method is PeftMethod.qlora
    model = load_model(config.model, held, **(in_four_bits(held, args.device) if qlora else {}))
    check_vocabulary(model, tokenizer)
    if config.trainer.liger:
        fuse(model)
    final = final_dtype(config, prepared.dtype)
    if config.peft.method is PeftMethod.none:
        said = "precision: computes in %s, holds weights in %s, saves the final model in %s"
        logger.info(said, prepared.dtype, held, final)
    peft_config = lora_config(config)
    if peft_config is not None and config.peft.target_modules != ["all-linear"]:
        check_lora_targets(model, config.peft.target_modules)
    _warn_of_high_learning_rate(config, model)
    common: dict[str, Any] = {
        "args": args,
        "processing_class": tokenizer,
        "peft_config": peft_config,
        # Compiled layers come first: those behind it write its number of graphs.
        "callbacks": [CompiledLayers(), *callbacks] if config.trainer.compile else callbacks,
        "origin": Origin.of(config.model, rows, final),
        **own_optimizer(config),
        "probe": None if prepared.probe_rows is None else make_probe(config, prepared.probe_rows, tokenizer, model),
    }
    if config.objective.name is Arm.dpo:
        from derta.training.dpo import make_dpo_trainer

        # The reference model is read like the model itself: same revision, same precision, safetensors only.
        reference = load_model(config.model, held) if peft_config is None else None
        if config.trainer.liger and reference is not None:
            fuse(reference)
        drop = config.data.long_prompts == "drop"
        return make_dpo_trainer(model, reference, rows, drop_long_prompts=drop, **common)
    from derta.training.trainer import DeRTaTrainer

    trainer = DeRTaTrainer(model, train_dataset=rows.dataset, **common)
    multiple = trainer.args.pad_to_multiple_of or 1
    check_positions(model, -(-max(trainer.train_dataset["length"]) // multiple) * multiple)
    logger.info("rows: %s", trainer.row_report)
    return trainer


def _warn_of_high_learning_rate(config: TrainRunConfig, model: Any) -> None:
    # Under ZeRO-3 a parameter's own size is 0 here; ds_numel is the whole.
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    rate = config.optim.learning_rate
    if config.peft.method is PeftMethod.none and parameters > _LARGE_MODEL and rate > _HIGH_LEARNING_RATE:
        said = "optim.learning_rate=%g is meant for the miniature and this model has %.1fM parameters: %s"
        logger.warning(said, rate, parameters / 1e6, "use optim=full (2e-5), or optim=lora with peft=lora")


@contextlib.contextmanager
def _clean_up_after_failure(output_dir: Path) -> Iterator[None]:
    """A full disk ends the run with one message and without half-written files; complete checkpoints stay."""
    try:
        yield
    except Exception as error:
        end_wandb(failed=True)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and not any(words in str(error) for words in _FULL_DISK):
            raise
        if is_main_rank():
            shutil.rmtree(output_dir / _FINAL_PARTIAL, ignore_errors=True)
            resume.remove_incomplete(output_dir)
        raise InputError(
            f"the disk of output_dir={output_dir} is full: nothing half-written was kept and complete checkpoints are "
            "untouched; free space and start the same command again"
        ) from error


def _finish(trainer: Any, output_dir: Path) -> None:
    """The model at the root of the run, moved there once it is complete; its card; and the note that all is there."""
    # Full fine-tuning without DeepSpeed trains float32 weights (checkpoints hold them); nobody else needs those.
    if not trainer.is_deepspeed_enabled and not hasattr(trainer.model, "peft_config"):
        trainer.model.to(getattr(torch, trainer.origin.dtype))
    partial = output_dir / _FINAL_PARTIAL
    if is_main_rank():
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    trainer.accelerator.wait_for_everyone()
    if is_main_rank():
        apply_umask(partial)
        for file in partial.iterdir():
            target = output_dir / file.name
            if file.is_dir():  # a tokenizer with several named chat templates has a folder of them
                shutil.rmtree(target, ignore_errors=True)
            file.replace(target)
        partial.rmdir()
        trainer.create_model_card(model_name=output_dir.name)
        write_json_atomically(output_dir / resume.FINISHED_FILE, {"step": trainer.state.global_step})
        logger.info("finished after %d steps: %s", trainer.state.global_step, output_dir)
        end_wandb()
    leave_group(trainer)
