"""One training run, from a validated configuration to a directory that any Hugging Face tool loads.

    configuration -> rows -> tokenizer -> output directory -> model -> trainer -> checkpoints -> final model

Everything that can be refused is refused before the model is read.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from derta.config import Arm, LongPrompts, PeftMethod, TrainRunConfig
from derta.config.failures import is_main_rank, world_size
from derta.config.paths import expand_home
from derta.data.guard import check_contamination
from derta.data.load import LoadedRows, load_rows
from derta.errors import InputError, Preempted
from derta.models.conversation import ConversationCutter, check_tokenizer, is_raw_text
from derta.storage.atomic import apply_umask, write_json_atomically
from derta.training.checkpoints import choose_checkpoint, remove_incomplete
from derta.training.identity import (
    FINISHED_FILE,
    PREEMPTED_FILE,
    check_resumed_run,
    check_same_run,
    checkpoint_differences,
    describe_run,
    new_directory,
    recorded_date,
    with_history,
    write_config,
)
from derta.training.wandb_run import end_wandb, log_sample_texts, resolve_mode, start_wandb

if TYPE_CHECKING:
    from derta.training.preemption import StopRequests

logger = logging.getLogger(__name__)

_FINAL_PARTIAL = ".final.partial"
_LARGE_MODEL = 100_000_000  # parameters; above it a miniature's learning rate destroys a pretrained model
_HIGH_LEARNING_RATE = 1e-4
# How torch and safetensors say that a write has failed: ENOSPC, EDQUOT, EFBIG, or nothing but where it was.
_FULL_DISK = ("os error 28", "os error 122", "os error 27", "No space left", "PytorchStreamWriter", "inline_container")


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
    from derta.training.preemption import StopRequests

    with StopRequests().noted() as requests:
        return _run_training(config, requests, before_the_model)


def _run_training(config: TrainRunConfig, requests: StopRequests, before_the_model: Callable[[], None]) -> Path:
    ranks = world_size()
    if problems := expand_home(config).problems():
        raise InputError.listing("this configuration cannot run:", problems)
    logging.basicConfig(level=logging.INFO if is_main_rank() else logging.ERROR, format="%(message)s")
    for noisy in ("httpx", "httpx2", "huggingface_hub", "datasets", "DeepSpeed", "torch.distributed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    output_dir = Path(config.output_dir)
    rows = load_rows(config.data.path, config.data.format.value)
    check_contamination(config.data, rows)

    from derta.models.fingerprint import fingerprint
    from derta.models.load import check_source, load_tokenizer
    from derta.models.precision import resolve_dtype
    from derta.models.run_date import settle_dates
    from derta.training.arguments import shared_arguments
    from derta.training.hangs import HangWatch
    from derta.training.preemption import StopAtStepBoundary
    from derta.training.probe import add_probe, load_probe_rows

    check_source(config.model.name_or_path)
    settle_dates(config, recorded=recorded_date(output_dir))
    tokenizer = load_tokenizer(config.model)
    has_chats = any(not is_raw_text(prompt) for prompt in rows.dataset["prompt"])
    check_tokenizer(tokenizer, needs_chat_template=has_chats)
    if has_chats:
        ConversationCutter(tokenizer).check()
    dtype = resolve_dtype(config.model)
    model_sha256 = fingerprint(config.model.name_or_path, config.model.revision)
    probe_rows = load_probe_rows(config, rows.dataset)
    description = describe_run(config, rows.sha256, ranks, model_sha256)
    if probe_rows is not None:
        description["run"]["probe_sha256"] = probe_rows.sha256
    shared = shared_arguments(config, output_dir, world_size=ranks, dtype=dtype)
    _start_distributed(config)
    with _main_rank_first():
        is_new = not check_same_run(output_dir, description)
    before_the_model()
    if (output_dir / FINISHED_FILE).is_file():
        logger.info("%s is finished already; nothing to do (choose another output_dir to train again)", output_dir)
        return output_dir
    checkpoint = choose_checkpoint(
        config.trainer.resume,
        output_dir,
        ranks,
        differences=lambda path: checkpoint_differences(path, description),
        any_world_size="world_size" in config.trainer.resume_despite,
    )
    if checkpoint is not None:
        check_resumed_run(checkpoint, output_dir, description)
        logger.info("goes on from %s", checkpoint)
    if not is_new:
        description, is_new = with_history(output_dir, description)
    shared["report_to"] = [] if resolve_mode(config.logging.wandb_mode) == "disabled" else ["wandb"]
    with _clean_up_after_failure(output_dir):
        with new_directory(output_dir) if is_main_rank() else contextlib.nullcontext():
            trainer = _make_trainer(config, rows, tokenizer, shared, dtype, description)
            if probe_rows is not None:
                add_probe(config, probe_rows, trainer)
            if is_main_rank():
                (output_dir / PREEMPTED_FILE).unlink(missing_ok=True)
            if is_main_rank() and is_new:
                write_config(output_dir, description)
        if shared["report_to"] and is_main_rank():
            _start_logging(config, output_dir, description, trainer)
        stopper = StopAtStepBoundary(requests)
        trainer.callback_handler.callbacks.insert(1, stopper)  # before those that look at should_save
        watch = HangWatch(config.distributed.timeout_minutes * 60)
        trainer.add_callback(watch)
        with watch.running():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stopper.stopped is not None:
            _end_preempted(trainer, output_dir, stopper.stopped)
        requests.finishing = True
        _save_final(trainer, output_dir)
        _finish(trainer, output_dir)
    return output_dir


def _start_distributed(config: TrainRunConfig) -> None:
    """ZeRO needs its process group before the model is read, or every rank would believe it is alone."""
    import torch

    timeout = timedelta(minutes=config.distributed.timeout_minutes)
    if config.distributed.deepspeed is not None:
        try:
            import deepspeed
        except ModuleNotFoundError as error:
            raise InputError(
                "distributed.deepspeed needs DeepSpeed, which pip installs with derta on Linux alone: take "
                "distributed=none, or pip install deepspeed"
            ) from error

        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if "RANK" not in os.environ:  # plain `python`: a group of one
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
            os.environ.setdefault("MASTER_PORT", _free_port())
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=timeout)
    elif world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available(), timeout=timeout)


def _free_port() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextlib.contextmanager
def _main_rank_first() -> Iterator[None]:
    """Rank 0 looks at the directory before the others do, so that one message tells what is wrong with it."""
    import torch.distributed as dist

    grouped = dist.is_available() and dist.is_initialized()
    if grouped and not is_main_rank():
        dist.barrier()
    try:
        yield
    finally:  # also when rank 0 refuses: the others then find what it found
        if grouped and is_main_rank():
            dist.barrier()
    if grouped:
        dist.barrier()  # before rank 0 goes on and writes


def _start_logging(config: TrainRunConfig, output_dir: Path, description: dict[str, Any], trainer: Any) -> None:
    """Start or continue this run's W&B run, which a callback then writes to."""
    from derta.training.callbacks import METRICS_FILE, WandbCurves

    logged = start_wandb(config.logging, output_dir, description, afresh=config.trainer.resume == "never")
    if logged is None:
        return
    trainer.add_callback(WandbCurves(logged, output_dir / METRICS_FILE))
    if config.logging.sample_texts and config.objective.name is not Arm.dpo and not logged.rows and logged.through < 0:
        log_sample_texts(trainer.sample_texts(8))


def _make_trainer(
    config: TrainRunConfig,
    rows: LoadedRows,
    tokenizer: Any,
    shared: dict[str, Any],
    dtype: str,
    description: dict[str, Any],
) -> Any:
    from derta.models.load import check_lora_targets, check_positions, check_vocabulary, load_model
    from derta.training.arguments import derta_arguments, dpo_arguments, lora_config, weights_dtype
    from derta.training.callbacks import CompletionRecord, MetricsFile, OffloadedAdamGoesOn, WandbCallback
    from derta.training.card import DataCard

    is_dpo = config.objective.name is Arm.dpo
    # Built before the model and kept: under ZeRO-3 its existence is what makes from_pretrained shard the weights.
    args = dpo_arguments(config, shared) if is_dpo else derta_arguments(config, shared)
    model = load_model(config.model, weights_dtype(config, dtype))
    check_vocabulary(model, tokenizer)
    peft_config = lora_config(config)
    if peft_config is not None and config.peft.target_modules != ["all-linear"]:
        check_lora_targets(model, config.peft.target_modules)
    _warn_of_high_learning_rate(config, model)
    common: dict[str, Any] = {
        "args": args,
        "processing_class": tokenizer,
        "peft_config": peft_config,
        "callbacks": [
            MetricsFile(Path(config.output_dir)),
            CompletionRecord(config.trainer.save_total_limit, description),
            OffloadedAdamGoesOn(),
        ],
    }
    if is_dpo:
        from derta.training.dpo import make_dpo_trainer

        # The reference model is read like the model itself: same revision, same precision, safetensors only.
        reference = load_model(config.model, weights_dtype(config, dtype)) if peft_config is None else None
        drop = config.data.long_prompts is LongPrompts.drop
        trainer = make_dpo_trainer(model, reference, rows, drop_long_prompts=drop, **common)
    else:
        from derta.training.trainer import DeRTaTrainer

        trainer = DeRTaTrainer(model, train_dataset=rows.dataset, **common)
        check_positions(model, max(trainer.train_dataset["length"]))
        logger.info("refusal token: %s", trainer.refusal_token)
        logger.info("rows: %s", trainer.row_report.to_dict())
    trainer.data_card = DataCard.from_manifest(rows.manifest, rows.sha256)
    trainer.base_model = (config.model.name_or_path, config.model.revision)
    trainer.pop_callback(WandbCallback)  # ours takes its place once the W&B run is there
    trainer.skip_grad_norm_above = config.trainer.skip_grad_norm_above
    return trainer


def _warn_of_high_learning_rate(config: TrainRunConfig, model: Any) -> None:
    # Under ZeRO-3 a parameter's own size is 0 here; ds_numel is the whole.
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    rate = config.optim.learning_rate
    if config.peft.method is PeftMethod.none and parameters > _LARGE_MODEL and rate > _HIGH_LEARNING_RATE:
        logger.warning(
            "optim.learning_rate=%g is meant for the miniature and this model has %.1fM parameters: "
            "use optim=full (2e-5), or optim=lora with peft=lora",
            rate,
            parameters / 1e6,
        )


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
            remove_incomplete(output_dir)
        raise InputError(
            f"the disk of output_dir={output_dir} is full: nothing half-written was kept and complete checkpoints are "
            "untouched; free space and start the same command again"
        ) from error


def _save_final(trainer: Any, output_dir: Path) -> None:
    """The model at the root of the run, moved there once it is complete."""
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


def _end_preempted(trainer: Any, output_dir: Path, stopped: Preempted) -> NoReturn:
    """Leave a note (torchrun hides the exit codes of its ranks), close what is open, and end every rank."""
    if is_main_rank():
        write_json_atomically(output_dir / PREEMPTED_FILE, {"step": trainer.state.global_step})
        end_wandb()
    _leave_group(trainer)
    raise stopped


def _finish(trainer: Any, output_dir: Path) -> None:
    if is_main_rank():
        trainer.create_model_card(model_name=output_dir.name)
        write_json_atomically(output_dir / FINISHED_FILE, {"step": trainer.state.global_step})
        logger.info("finished after %d steps: %s", trainer.state.global_step, output_dir)
        end_wandb()
    _leave_group(trainer)


def _leave_group(trainer: Any) -> None:
    import torch.distributed as dist

    trainer.accelerator.wait_for_everyone()
    if dist.is_initialized():
        dist.destroy_process_group()
