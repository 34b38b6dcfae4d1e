"""`model`: what is trained and how it is loaded; and a model that runs elsewhere, behind an address."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated
from urllib.parse import urlsplit

from annotated_types import Predicate

from derta.config.settings import Choice, Count, Name, NotNegative, Positive, Settings, Text, Whole


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


@dataclass(kw_only=True, slots=True)
class EndpointConfig(Settings):
    """A server that speaks the chat-completions protocol. Whatever it is asked leaves this process: prompts, and for
    a judge responses too."""

    url: str = ""
    """Base address, up to and including the version, for example http://localhost:8000/v1; empty: no endpoint."""
    model: str = ""
    """The name the server knows the model by."""
    api_key_env: str = ""
    """*Name* of the environment variable that holds the key (empty: no key is sent)."""
    timeout: Positive = 120.0
    """Seconds for one whole answer."""
    retries: Whole = 4
    """Further tries after a failure that may pass (429, 408, 409, 5xx, a closed connection, no answer in time, an
    unreadable answer)."""
    backoff: NotNegative = 1.0
    """Seconds before the first retry, doubled for each further one, at most a minute; a server's Retry-After is
    honoured up to a minute."""
    concurrency: Count = 8
    """Requests under way at the same time."""

    def conflicts(self, key: Name) -> Iterator[str]:
        """An endpoint that is not set has none."""
        if not self.url.strip():
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield f"{key('url')}: expected http://HOST:PORT/v1 or https://..."
        if parts.username is not None or parts.query:  # it would end up in the record of the evaluation
            yield f"{key('url')} holds a user name or a query: give a key through {key('api_key_env')}"
        if not self.model.strip():
            yield f"{key('model')} is empty: give the name the server knows the model by"
