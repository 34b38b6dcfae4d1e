"""Candidate directions and their scores: one per position and layer (arXiv 2406.11717, sections 2.3 and 2.4).

direction[p, l] = mean(harmful) - mean(harmless) at position p and the input of layer l
bypass: ablated, harmful prompts | induce: added at layer l, harmless prompts | KL: ablated, harmless prompts

Three forwards over the validation prompts per candidate. Shapes: P positions, L layers, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from derta.direction.forward import PromptBatches, log_probabilities, mean_kl, metrics
from derta.direction.selection import Candidate
from derta.residual.interventions import activation_addition, directional_ablation

if TYPE_CHECKING:
    import torch


def score_candidates(
    model: Any,
    directions: torch.Tensor,
    harmful: PromptBatches,
    harmless: PromptBatches,
    refusal_ids: Sequence[int],
) -> list[Candidate]:
    """Scores of every candidate, by position (the earliest first) and layer; NaN where the direction is zero.

    Args:
        directions: [P, L, H]; the last position is the prompt's last token.
        harmful, harmless: validation prompts.
    """
    positions, depth, _ = directions.shape
    before = log_probabilities(harmless)
    found = []
    with tqdm(total=positions * depth, desc="candidates", unit="", disable=None) as progress:
        for p in range(positions):
            for layer in range(depth):
                direction = directions[p, layer]
                scores = (math.nan,) * 3
                if bool(direction.any()):
                    with directional_ablation(model, direction):
                        bypass, kl = fmean(metrics(harmful, refusal_ids)), mean_kl(before, harmless)
                    with activation_addition(model, direction, layer):
                        induce = fmean(metrics(harmless, refusal_ids))
                    scores = (bypass, induce, kl)
                found.append(Candidate(p - positions, layer, *scores))
                progress.update(1)
    return found
