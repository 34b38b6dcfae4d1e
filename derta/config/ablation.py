"""`objective.ablation`: training on safe responses while the refusal direction is removed from the forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Lt, MinLen

from derta.config.settings import Count, Settings, Share, Whole


@dataclass(kw_only=True, slots=True)
class AblationConfig(Settings):
    """With some probability a row with harmful prefix is trained with the model's own refusal direction ablated, so
    that refusal has to be carried by more than that direction (after ReFAT, arXiv 2409.20089; see
    derta/training/ablation.py). Of several places the one whose ablation most lowers the probability of refusing the
    harmful prompts is taken."""

    probability: Share = 0.0
    """That a row with harmful prefix is ablated in an epoch; 0 turns it off, at no cost."""
    refresh_steps: Count = 25
    """Optimizer steps between two computations of the direction."""
    prompts: Count = 32
    """Of either side, from the training rows, whose means the direction is the difference of."""
    positions: Annotated[
        list[Annotated[int, Lt(0)]], MinLen(1), "a list of numbers below 0, [-1] for the last token"
    ] = field(default_factory=lambda: [-1])
    """Tokens at which the direction may be read, counted from the end of the prompt."""
    layers: Annotated[list[Whole], MinLen(1), "a list of layers from 0"] | None = None
    """Blocks at whose input the direction may be read; null is the middle one."""
