"""The model card: what the model was taught, on which data under which licence, and what it is known to cost."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from derta.models.quantized import is_in_four_bits
from derta.models.taught import BASE_WAS_DIRECTORY, DERTA_CONFIG_FILE
from derta.models.template_date import fix_date
from derta.statistics.table import markdown
from derta.storage.atomic import write_atomically

if TYPE_CHECKING:
    from derta.config import ModelConfig
    from derta.data.load import LoadedRows

_CARD = """\
---
{metadata}
---

# {name}

Safety fine-tuned with derta (Decoupled Refusal Training, [paper](https://arxiv.org/abs/2407.09121)).

{facts}

## Data

{data}

The model inherits the licence of its base model and whatever those of the data ask for.

## Known limits

- Safety tuning moves a model towards refusal; it does not make it safe. Measure attack success, over-refusal and
  helpfulness on your own prompts before you rely on it.
- Over-refusal is the known cost of this method: the paper reports it at 64.0% on XSTest for LLaMA3-70B, against 18.8%
  for vanilla tuning and 18.0% once 200 borderline-benign samples are added (v2, Table 4).
- Refusal may still hang on few directions in the residual stream and be removable by whoever holds the weights.
"""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from, for its card.

    base_model, revision: directory or hub id of what was trained; None reads it off the model. dtype: precision that
    the final model is saved in. data_sha256: of the rows. recipe: what they were built by. sources: (source, revision,
    licence) of each.
    """

    base_model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    data_sha256: str = ""
    recipe: str = ""
    sources: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def of(cls, model: ModelConfig, rows: LoadedRows, dtype: str | None = None) -> Origin:
        known = rows.manifest or {}
        named = "recipe_name" in known
        return cls(
            base_model=model.name_or_path,
            revision=model.revision,
            dtype=dtype,
            data_sha256=rows.sha256,
            recipe=f"`{known['recipe_name']}` (sha256 `{known['recipe_sha256'][:12]}`)" if named else "",
            sources=tuple((one["name"], one["revision"] or "-", one["licence"]) for one in known.get("sources", [])),
        )


def save_derta_config(trainer: Any, output_dir: str | None, content: dict[str, Any]) -> None:
    """derta_config.json beside weights that `trainer` has just saved: what the model was taught."""
    if trainer.args.should_save:  # under ZeRO every rank saves, and one writes
        folder = Path(str(output_dir or trainer.args.output_dir))
        # a pickle; config.yaml and derta_config.json say the same
        (folder / "training_args.bin").unlink(missing_ok=True)
        day = fix_date(trainer.processing_class)  # type: ignore[arg-type]
        adapters = getattr(trainer.model, "peft_config", {}).values()
        bases = [adapter.base_model_name_or_path or "" for adapter in adapters]
        here = any(Path(base).is_dir() for base in bases) or None  # a directory is never looked up on the hub later
        beside = {"template_date": day, "dtype": trainer.origin.dtype, BASE_WAS_DIRECTORY: here}
        content = content | {name: value for name, value in beside.items() if value is not None}
        (folder / DERTA_CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def create_card(trainer: Any, name: str | None, tags: str | list[str] | None, facts: list[str]) -> None:
    """The card of what `trainer` trains, in its output directory; call it on every rank.

    Args:
        facts: lines about the objective and the rows; those about the training are added.
    """
    if not trainer.is_world_process_zero():
        return
    output_dir = Path(str(trainer.args.output_dir))
    base = trainer.origin.base_model or trainer.model.config._name_or_path or None
    write_model_card(
        output_dir / "README.md",
        name=name or output_dir.name,
        origin=replace(trainer.origin, base_model=base),
        tags=sorted({*trainer._tag_names, *([tags] if isinstance(tags, str) else tags or [])}),
        facts=[*facts, *_training_facts(trainer)],
        wandb_url=_wandb_url(),
        is_adapter=hasattr(trainer.model, "peft_config"),
    )


def _training_facts(trainer: Any) -> list[str]:
    args, state = trainer.args, trainer.state
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    scheduler = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    facts = [
        f"Training: {state.global_step} steps of {batch} rows ({state.epoch or 0:.3g} epochs), learning rate "
        f"{args.learning_rate:g} ({scheduler}), seed {args.seed}"
    ]
    adapters = getattr(trainer.model, "peft_config", {}).values()
    for lora in [adapter for adapter in adapters if hasattr(adapter, "lora_alpha")]:
        modules = lora.target_modules
        shown = modules if isinstance(modules, str) else ", ".join(sorted(modules or []))
        base = ", beside a base in 4 bits (nf4)" if is_in_four_bits(trainer.model) else ""
        facts.append(f"LoRA: r {lora.r}, alpha {lora.lora_alpha}, dropout {lora.lora_dropout}, on {shown}{base}")
    return facts


def _wandb_url() -> str | None:
    """Where the curves are; an offline run is nowhere."""
    wandb = sys.modules.get("wandb")
    run = wandb.run if wandb is not None else None
    return None if run is None or run.offline else run.url


def write_model_card(
    path: Path,
    *,
    name: str,
    origin: Origin,
    tags: list[str],
    facts: list[str],
    wandb_url: str | None,
    is_adapter: bool = False,
) -> None:
    """Write README.md of a model directory. Holds no text from the data, and of a local base its name alone: a path
    means nothing to a reader of the card."""
    library, base = "peft" if is_adapter else "transformers", origin.base_model
    is_local = base is not None and Path(base).is_dir()
    metadata = ModelCardData(base_model=None if is_local else base, library_name=library, tags=tags, model_name=name)
    shown = f"{Path(str(base)).resolve().name}, a local model" if is_local else base or "a local model"
    facts = [f"Base model: {shown}" + (f", revision {origin.revision}" if origin.revision else ""), *facts]
    facts += [f"Curves: {wandb_url}"] if wandb_url else []
    sources = markdown([["source", "revision", "licence"], *map(list, origin.sources)], left=3)
    data = [sources if origin.sources else "The user's own rows."]
    data += [f"Recipe: {origin.recipe}"] if origin.recipe else []
    data += [f"sha256 of the rows: `{origin.data_sha256}`"] if origin.data_sha256 else []
    listed = "\n".join(f"- {fact}" for fact in facts)
    card = _CARD.format(metadata=metadata.to_yaml(), name=name, facts=listed, data="\n\n".join(data))
    write_atomically(path, str(ModelCard(card)))
