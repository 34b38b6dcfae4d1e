"""`logging`: where the curves go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt, MaxLen, Predicate

from derta.config.settings import Choice, Settings, Text

_NOT_IN_PROJECTS = "/\\#?%:"
_LONGEST_PROJECT = 128


class WandbMode(Choice):
    """auto: online when a W&B key is configured, else offline (files only, no account)."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


def _names_a_project(text: str) -> bool:
    return not set(text) & set(_NOT_IN_PROJECTS)


@dataclass(kw_only=True, slots=True)
class LoggingConfig(Settings):
    """Curves in W&B; metrics.jsonl is always written."""

    wandb_mode: WandbMode = WandbMode.auto
    project: Annotated[
        Text,
        Predicate(_names_a_project),
        MaxLen(_LONGEST_PROJECT),
        f"a name of at most {_LONGEST_PROJECT} characters, none of {' '.join(_NOT_IN_PROJECTS)} (W&B refuses them)",
    ] = "derta"
    """Project in W&B."""
    run_name: str | None = None
    """Name of the run in W&B; null takes the output directory's name."""
    tags: list[Annotated[Text, MaxLen(64), "text of at most 64 characters (W&B takes no more)"]] = field(
        default_factory=list
    )
    """Tags of the run in W&B, beside those it always has: arm, base model, and full or lora."""
    group: Text | None = None
    """Group of the run in W&B; null takes the name of the sweep's root, and no group without a sweep."""
    sample_texts: bool = False
    """Upload a few decoded training rows to W&B; off, because they may hold harmful text."""
    peak_flops: Annotated[float, Gt(0), "FLOP/s of one device (9.89e14, say)"] | None = None
    """FLOP/s of one device in the run's precision, which `mfu` is measured against; null takes the data sheet's figure
    of a known GPU in 16 bit, and `mfu` is left out where there is none (on a CPU, say)."""
