"""`model`: what is trained and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from derta.config.choice import Choice


class Dtype(Choice):
    """Precision the weights are loaded in; `auto` is bfloat16 on an accelerator and float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """A Hugging Face causal language model: a local directory or a hub id.

    revision: hub commit hash, tag or branch; pin it for anything you publish.
    attn_implementation: as in transformers (sdpa, eager, flash_attention_2, ...); null leaves the model's own choice.
    chat_template: Jinja file or tokenizer directory, for base models that come without one.
    pad_token, eos_token: existing vocabulary entries, for tokenizers that come without them.
    template_date: the day that templates write which ask for today's (Llama 3.2 and 3.3), YYYY-MM-DD; null is the day
        that the output directory records, else the one the model was taught with, else today.
    trust_remote_code: runs code that comes with the model; off unless you ask for it.
    """

    name_or_path: str = ""
    revision: str | None = None
    dtype: Dtype = Dtype.auto
    attn_implementation: str | None = None
    chat_template: str | None = None
    pad_token: str | None = None
    eos_token: str | None = None
    template_date: str | None = None
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        found = []
        if not self.name_or_path.strip():
            found.append("model.name_or_path is empty: give a model directory or a hub id")
        for key in ("revision", "attn_implementation", "chat_template", "pad_token", "eos_token"):
            if (value := getattr(self, key)) is not None and not value.strip():
                found.append(f"model.{key} is empty: give a value, or null to leave it to the model")
        if self.template_date is not None:
            try:
                date.fromisoformat(self.template_date)
            except ValueError:
                found.append(f"model.template_date={self.template_date}: expected a day as YYYY-MM-DD, or null")
        return found
