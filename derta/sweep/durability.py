"""One evaluation of a model as it is, after N steps of plain fine-tuning, and with its adapter scaled down.

    model --TRL, helpful rows--> after 10 steps, after 50, ... --> evaluation, then the model is deleted --> curves
    adapter --lora_B times s---> scale 0.75, 0.5, ...          --> evaluation, then the copy is deleted  --/

OUTPUT/durability.json          what all of it was made with: the identity
OUTPUT/before                   the evaluation of the model as it is, unless it is given
OUTPUT/after-N, OUTPUT/scale-S  an evaluation each, and later.json, which says where it stands on the curve
OUTPUT/models                   made models that are not evaluated yet
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from derta.config.durability import DurabilityRunConfig
from derta.config.evaluation import EvaluateRunConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat
from derta.errors import InputError, errors_named
from derta.evaluation.prompt_files import PromptFile
from derta.evaluation.prompts import read_prompts
from derta.evaluation.provenance import shown_command
from derta.evaluation.ranks import Ranks
from derta.evaluation.suite import evaluate, prepare
from derta.evaluation.summary import SUMMARY_FILE, read_summary
from derta.models.fingerprint import adapter_base, base_of
from derta.models.load import ADAPTER_CONFIG, check_source, is_adapter, load_model
from derta.models.messages import TEXT_ROLE
from derta.models.precision import resolve_dtype
from derta.models.target import target_tokenizer
from derta.models.taught import DERTA_CONFIG_FILE
from derta.models.template_date import fixed_template
from derta.report.later import Axis, Later, write_later
from derta.report.report import write_report
from derta.storage.atomic import new_folder, write_json_atomically
from derta.storage.claim import Claim, differences

_TUNING = ("learning_rate", "batch_size", "max_length", "seed")
_DELTA = re.compile(r"lora_(?:embedding_)?([AB])")


@dataclass(frozen=True, slots=True)
class _Part:
    """A place on a curve. model: where the made model lies until it is evaluated."""

    axis: Axis
    value: float
    folder: Path
    model: Path
    label: str

    @property
    def done(self) -> bool:
        return (self.folder / SUMMARY_FILE).is_file()


def run_durability(config: DurabilityRunConfig) -> str:
    """Do what is not done yet; returns the table of all evaluations, and where the report is.

    Raises:
        InputError: settings, model or rows that cannot be used; `before` of another model or other settings; a folder
            that holds other work; several processes.
    """
    if problems := config.problems():
        raise InputError.listing("these settings cannot run:", problems)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("launch/durability.py is one process: start it with plain python, without torchrun")
    root, rows = Path(config.output_dir), _read(config) if config.steps else None
    source = check_source(config.model.name_or_path)
    if not config.steps and not (is_adapter(source) and config.lora_scales):
        raise InputError(f"nothing to do: there are no later steps, and {source} is no adapter, or lora_scales=[]")
    before, untouched = _untouched(config)
    identity = prepare(untouched, Ranks()).identity
    if config.before:
        found = read_summary(before).identity.to_json()
        if differing := list(differences(found, identity.to_json())):
            raise InputError.listing(f"before={config.before} is another evaluation than this one. There:", differing)
    tuning = {"helpful": rows.sha256, **{key: getattr(config, key) for key in _TUNING}} if rows else None
    made_with = {"evaluation": identity.to_json(), "tuning": tuning}
    claim = Claim(root / "durability.json", made_with, work="study of durability", named=f"output_dir={root}")
    if not claim.held():
        claim.take()
    summary = read_summary(before) if config.before else evaluate(untouched, Ranks())
    label = config.label or summary.label
    parts = [
        _Part(Axis.steps, steps, root / f"after-{steps}", root / "models" / f"after-{steps}", f"{label}, {steps} steps")
        for steps in sorted(set(config.steps))
    ]
    if is_adapter(source):
        parts += [
            _Part(Axis.scale, s, root / f"scale-{s:g}", root / "models" / f"scale-{s:g}", f"{label} x {s:g}")
            for s in sorted(set(config.lora_scales), reverse=True)
            if s != 1  # the model as it is
        ]
    left = [part for part in parts if not part.done]
    to_tune = [part for part in left if part.axis is Axis.steps and not part.model.is_dir()]
    if to_tune and rows:
        _tune(replace(config, model=untouched.model), rows.rows, {int(part.value): part.model for part in to_tune})
    for part in left:
        if part.axis is Axis.scale:
            scaled_adapter(Path(source), part.value, part.model)
        model = replace(untouched.model, name_or_path=str(part.model))
        evaluate(replace(untouched, model=model, label=part.label, output_dir=str(part.folder)), Ranks())
        if not config.keep_models:
            shutil.rmtree(part.model)
    for part in parts:
        write_later(part.folder, Later(label, part.axis, part.value, identity.model.sha256))
    if not config.keep_models:
        shutil.rmtree(root / "models", ignore_errors=True)
    table = write_report(
        [str(before), *(str(part.folder) for part in parts)], str(root), command=shown_command(sys.argv)
    )
    return f"{table}\nwritten to {root}: report.html, report.md and its figures"


def _untouched(config: DurabilityRunConfig) -> tuple[Path, EvaluateRunConfig]:
    """Folder and settings of the evaluation of the model as it is. What the later ones are to do alike is settled in
    them: the day that a template writes, and the refusal token, which derta_config.json says."""
    folder = Path(config.before or f"{config.output_dir}/before")
    return folder, EvaluateRunConfig(
        model=replace(config.model), eval=config.eval, label=config.label, output_dir=str(folder)
    )


def _read(config: DurabilityRunConfig) -> PromptFile:
    """The helpful rows. Raises InputError: none, or rows that have no turns."""
    with errors_named(keys={"data.path=": "helpful="}):
        found = read_prompts(config.helpful, PromptFormat.derta, harmful=False)
    rows = [row for row in found.rows if row.get("kind") == "helpful" and row.get("chosen")]
    if not rows:
        raise InputError(
            f"helpful={config.helpful} holds no helpful rows with a response: give such, see data_recipes/"
        )
    if any(message["role"] == TEXT_ROLE for row in rows for message in row["prompt"]):
        raise InputError(f"helpful={config.helpful} holds raw texts: give rows with messages")
    return replace(found, rows=rows)


def _tune(config: DurabilityRunConfig, rows: Sequence[dict[str, Any]], wanted: dict[int, Path]) -> None:
    """TRL's SFTTrainer as a later user starts it: full fine-tuning on the responses, an adapter merged first. Steps ->
    where the model goes. derta_config.json is copied beside it, so that the evaluation knows what to look for."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer = target_tokenizer(config.model)
    if not tokenizer.chat_template:
        raise InputError("the model has no chat template, which TRL needs: give one, model.chat_template=FILE")
    on_cpu = not torch.accelerator.is_available()
    folder = next(iter(wanted.values())).parent
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=max(wanted), save_strategy="no", report_to=[], disable_tqdm=True,
        learning_rate=config.learning_rate, lr_scheduler_type="constant", max_length=config.max_length,
        per_device_train_batch_size=config.batch_size, seed=config.seed, gradient_checkpointing=not on_cpu,
        use_cpu=on_cpu, bf16=resolve_dtype(config.model) == "bfloat16", dataloader_pin_memory=not on_cpu,
    )  # fmt: skip
    taught = Path(config.model.name_or_path) / DERTA_CONFIG_FILE

    class Keep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if target := wanted.get(state.global_step):
                with new_folder(target, f"output_dir={config.output_dir}") as partial:
                    trainer.save_model(str(partial))
                    if taught.is_file():
                        shutil.copyfile(taught, partial / DERTA_CONFIG_FILE)

    template = tokenizer.chat_template
    tokenizer.chat_template = fixed_template(tokenizer) or template  # its day is that of the evaluations
    trainer = SFTTrainer(
        _loaded(config.model),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]),
        processing_class=tokenizer,
        callbacks=[Keep()],
    )
    tokenizer.chat_template = template  # what is saved asks for the day as before
    trainer.train()


def _loaded(model: ModelConfig) -> Any:
    """The weights in float32, which small steps need; an adapter merged into its base."""
    base = base_of(model)
    loaded = load_model(base, "float32")
    if base is model:
        return loaded
    from peft import PeftModel

    return PeftModel.from_pretrained(loaded, model.name_or_path).merge_and_unload(safe_merge=True)


def scaled_adapter(source: Path, scale: float, output: Path) -> None:
    """A copy of a LoRA adapter whose delta B A is `scale` times as large.
    Raises InputError: it holds more than such deltas, which no factor scales."""
    from safetensors.torch import load_file, save_file

    with new_folder(output) as partial:
        for file in source.iterdir():
            if file.is_file() and file.suffix != ".safetensors":
                shutil.copyfile(file, partial / file.name)
        settings = json.loads((source / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = str(adapter_base(source))  # it may be named from the adapter's folder
        write_json_atomically(partial / ADAPTER_CONFIG, settings)
        for file in source.glob("adapter_model*.safetensors"):
            tensors = load_file(file)
            if other := [name for name in tensors if not _DELTA.search(name)]:
                raise InputError(
                    f"the adapter {source} holds more than LoRA deltas ({other[0]}, ...), which no factor scales: set "
                    "lora_scales=[]"
                )
            scaled = {
                name: tensor * scale if _DELTA.search(name)[1] == "B" else tensor  # type: ignore[index]
                for name, tensor in tensors.items()
            }
            save_file(scaled, partial / file.name, {"format": "pt"})
