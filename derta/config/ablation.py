"""`objective.ablation`: training on safe responses while the refusal direction is removed from the forward."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class AblationConfig:
    """With some probability a row with harmful prefix is trained with the model's own refusal direction ablated, so
    that refusal has to be carried by more than that direction (after ReFAT, arXiv 2409.20089; see
    derta/training/ablation.py).

    probability: that such a row is ablated in an epoch; 0 turns it off, at no cost.
    refresh_steps: optimizer steps between two computations of the direction.
    prompts: of either side, from the training rows, whose means the direction is the difference of.
    positions: tokens counted from the end of the prompt (-1: the last) at which it may be read.
    layers: blocks, from 0, at whose input it may be read; null is the middle one.
        Of several places the one whose ablation most lowers the probability of refusing those harmful prompts is taken.
    """

    probability: float = 0.0
    refresh_steps: int = 25
    prompts: int = 32
    positions: list[int] = field(default_factory=lambda: [-1])
    layers: list[int] | None = None

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.probability <= 1:
            found.append(f"objective.ablation.probability={self.probability}: expected a probability in [0, 1]")
        for key in ("refresh_steps", "prompts"):
            if (value := getattr(self, key)) < 1:
                found.append(f"objective.ablation.{key}={value}: expected at least 1")
        if not self.positions or any(position >= 0 for position in self.positions):
            found.append(
                f"objective.ablation.positions={list(self.positions)}: expected numbers below 0, counted from the end "
                "of the prompt; [-1] is its last token"
            )
        if self.layers is not None and (not self.layers or any(layer < 0 for layer in self.layers)):
            found.append(
                f"objective.ablation.layers={list(self.layers)}: expected layers from 0, or null for the middle one"
            )
        return found
