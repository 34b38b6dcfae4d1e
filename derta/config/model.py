"""`model`: what is trained and how it is loaded."""

from dataclasses import dataclass
from datetime import date
from typing import Annotated

from annotated_types import Predicate

from derta.config.settings import Choice, Settings, Text


class Dtype(Choice):
    """Precision the weights are loaded in; `auto` is bfloat16 on an accelerator and float32 on a CPU."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text) is not None
    except ValueError:
        return False


@dataclass(kw_only=True, slots=True)
class ModelConfig(Settings):
    """A Hugging Face causal language model."""

    name_or_path: str = ""
    """A local directory or a hub id."""
    revision: Text | None = None
    """Hub commit hash, tag or branch; pin it for anything you publish."""
    dtype: Dtype = Dtype.auto
    attn_implementation: Text | None = None
    """As in transformers (sdpa, eager, flex_attention, flash_attention_2, ...), or varlen (for flattened rows, see
    trainer.padding_free); null leaves the model's own choice."""
    chat_template: Text | None = None
    """Jinja file or tokenizer directory, for base models that come without one."""
    pad_token: Text | None = None
    """An existing vocabulary entry, for tokenizers that come without pad token."""
    eos_token: Text | None = None
    """An existing vocabulary entry, for tokenizers that come without EOS token."""
    template_date: Annotated[str, Predicate(_is_day), "a day as YYYY-MM-DD"] | None = None
    """The day that templates write which ask for today's (Llama 3.2 and 3.3); null is the day that the output directory
    records, else the one the model was taught with, else today."""
    trust_remote_code: bool = False
    """Run code that comes with the model; off unless you ask for it."""
