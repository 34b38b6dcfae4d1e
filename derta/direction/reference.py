"""The direction of another checkpoint, applied to this one: an attacker may have only the base.

A reference is a direction file, or a model whose direction is searched for with the same prompts. A model without a
valid direction of its own (a base that refuses nothing) gives its difference of means at this model's chosen place.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config.direction import DirectionConfig
from derta.config.model import ModelConfig
from derta.direction.find import Search, find_direction, mean_difference
from derta.direction.forward import AllFiltered
from derta.direction.outcomes import Tester
from derta.direction.prompts import Side, refusal_start_ids, template_positions
from derta.errors import InputError
from derta.models.target import TargetModel, load_target
from derta.residual.blocks import locate_blocks
from derta.residual.direction_files import Direction, load_direction
from derta.residual.interventions import directional_ablation

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reference:
    """direction: its own, where it has one. differences: [P, L, H] of its means, where it is a model."""

    direction: Direction | None
    differences: torch.Tensor | None = None


def load_reference(
    name: str, model: ModelConfig, target: TargetModel, sides: tuple[Side, Side], config: DirectionConfig
) -> Reference:
    """The reference's direction; its model is dropped again.

    Args:
        model: how the model under diagnosis is loaded; the reference is loaded the same way.

    Raises:
        InputError: no such model or file, or one of another hidden size.
    """
    width = locate_blocks(target.model).hidden_size
    if Path(name).is_file():
        return Reference(load_direction(name, width))
    other = load_target(replace(model, name_or_path=name, revision=None), device=target.model.device)
    if (there := locate_blocks(other.model).hidden_size) != width:
        raise InputError(
            f"direction.references: the residual stream of {name} has {there} components and this model's {width}: "
            "name a checkpoint of the same base"
        )
    harmful, harmless = sides
    refusal_ids = refusal_start_ids(other, config.refusal_texts, config.refusal_token_ids)
    positions = config.positions or template_positions(other.cutter, [*harmful.train, *harmless.train])
    found = mean_difference(other, harmful, harmless, refusal_ids, positions, config.batch_size)
    try:
        search = find_direction(other, harmful, harmless, refusal_ids, config)
    except AllFiltered as error:  # it refuses nothing, so it has no refusal direction; the means are there all the same
        logger.info("reference %s: %s", name, error)
        return Reference(None, found)
    chosen = search.selection.chosen
    if chosen is None:
        return Reference(None, found)
    vector = search.at(chosen.position, chosen.layer)
    return Reference(Direction(vector, chosen.position, chosen.layer), search.differences)


def apply_reference(reference: Reference, search: Search, tester: Tester) -> dict[str, Any]:
    """Numbers of the model under diagnosis with the reference's direction ablated.

    `own`: whether the reference had a valid direction. `cosine`: with this model's own direction, null without one.
    """
    chosen, direction = search.selection.chosen, reference.direction
    if direction is None and chosen is not None and reference.differences is not None:
        vector = reference.differences[chosen.position, chosen.layer]
        direction = Direction(vector, chosen.position, chosen.layer) if bool(vector.any()) else None
    if direction is None:
        return {"own": False, "reason": "neither the reference nor the model has a valid direction"}
    cosine = None
    if chosen is not None:
        own = search.at(chosen.position, chosen.layer)
        cosine = float(own @ direction.vector / (own.norm() * direction.vector.norm()))
    with directional_ablation(tester.target.model, direction.vector):
        numbers = tester.measure()
    place = {"position": direction.position, "layer": direction.layer}
    return {"own": reference.direction is not None, "reason": "", **place, "cosine": cosine, **numbers}
