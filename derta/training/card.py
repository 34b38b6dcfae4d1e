"""The model card: what the model was taught, on which data under which licence, and what it is known to cost."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import Trainer

from derta.models.taught import DERTA_CONFIG_FILE
from derta.models.template_date import fix_date
from derta.storage.atomic import write_atomically

_PAPER = "https://arxiv.org/abs/2407.09121"

_LIMITS = """\
- Safety tuning moves a model towards refusal; it does not make it safe. Measure attack success, over-refusal and
  helpfulness on your own prompts before you rely on it.
- Over-refusal is the known cost of this method: the paper reports it at 64.0% on XSTest for LLaMA3-70B, against 18.8%
  for vanilla tuning and 18.0% once 200 borderline-benign samples are added (v2, Table 4).
- Refusal may still hang on few directions in the residual stream and be removable by whoever holds the weights."""


@dataclass(frozen=True)
class DataCard:
    """Where the rows came from: (source, revision, licence) of each, the recipe, and the hash of the whole."""

    sha256: str = ""
    recipe: str = ""
    sources: list[tuple[str, str, str]] = field(default_factory=list)

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any] | None, sha256: str) -> DataCard:
        known = manifest or {}
        entries = known.get("sources", [])
        recipe = f"`{known['recipe_name']}` (sha256 `{known['recipe_sha256'][:12]}`)" if "recipe_name" in known else ""
        return cls(
            sha256,
            recipe,
            [(entry["name"], entry["revision"] or "-", entry["licence"]) for entry in entries],
        )


class WithModelCard(Trainer, ABC):
    """What a trainer of ours leaves beside the weights: derta_config.json and the model card.

    Attributes:
        data_card: where the rows came from.
        base_model: (directory or hub id, revision) of what was trained; None reads it off the model.
    """

    data_card = DataCard()
    base_model: tuple[str, str | None] | None = None
    _tag_names: list[str]

    @abstractmethod
    def derta_config(self) -> dict[str, Any]:
        """What this model was taught."""

    @abstractmethod
    def card_facts(self) -> list[str]:
        """Lines about the training for the card."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # under ZeRO every rank comes here, and one writes
            # A pickle; config.yaml and derta_config.json say the same.
            (Path(str(output_dir or self.args.output_dir)) / "training_args.bin").unlink(missing_ok=True)
            path = Path(str(output_dir or self.args.output_dir)) / DERTA_CONFIG_FILE
            day = fix_date(self.processing_class)  # type: ignore[arg-type]
            taught = self.derta_config() | ({} if day is None else {"template_date": day})
            path.write_text(json.dumps(taught, indent=2) + "\n", encoding="utf-8")

    def create_model_card(self, model_name: str | None = None, dataset_name: Any = None, tags: Any = None) -> None:
        if not self.is_world_process_zero():
            return
        model: Any = self.model
        base, revision = self.base_model or (model.config._name_or_path or None, None)
        if base and Path(base).is_dir():
            base = None  # a local path means nothing to a reader of the card
        output_dir = Path(str(self.args.output_dir))
        write_model_card(
            output_dir / "README.md",
            name=model_name or output_dir.name,
            base_model=base,
            revision=revision,
            tags=sorted({*self._tag_names, *([tags] if isinstance(tags, str) else tags or [])}),
            facts=self.card_facts(),
            data=self.data_card,
            wandb_url=_wandb_url(),
            is_adapter=hasattr(model, "peft_config"),
        )


def _wandb_url() -> str | None:
    """Where the curves are; an offline run is nowhere."""
    wandb = sys.modules.get("wandb")
    run = wandb.run if wandb is not None else None
    return None if run is None or run.offline else run.url


def write_model_card(
    path: Path,
    *,
    name: str,
    base_model: str | None,
    revision: str | None,
    tags: list[str],
    facts: list[str],
    data: DataCard,
    wandb_url: str | None,
    is_adapter: bool = False,
) -> None:
    """Write README.md of a model directory. Holds no text from the data."""
    library = "peft" if is_adapter else "transformers"
    metadata = ModelCardData(base_model=base_model, library_name=library, tags=tags, model_name=name)
    sources = [f"| {source} | {revision} | {licence} |" for source, revision, licence in data.sources]
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"Safety fine-tuned with derta (Decoupled Refusal Training, [paper]({_PAPER})).",
        "",
        f"- Base model: {base_model or 'a local model'}" + (f", revision {revision}" if revision else ""),
        *[f"- {fact}" for fact in facts],
        *([f"- Curves: {wandb_url}"] if wandb_url else []),
        "",
        "## Data",
        "",
        *(["| source | revision | licence |", "|---|---|---|", *sources] if sources else ["The user's own rows."]),
        *(["", f"Recipe: {data.recipe}"] if data.recipe else []),
        *(["", f"sha256 of the rows: `{data.sha256}`"] if data.sha256 else []),
        "",
        "The model inherits the licence of its base model and whatever those of the data ask for.",
        "",
        "## Known limits",
        "",
        _LIMITS,
    ]
    write_atomically(path, str(ModelCard("\n".join(lines) + "\n")))
