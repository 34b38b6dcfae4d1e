"""The direction of another checkpoint, to be applied to this one: an attacker may have only the base.

A reference is a direction file, or a model whose direction is searched for with the same prompts. A model without a
valid direction of its own (a base that refuses nothing) gives its difference of means at this model's chosen place.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from derta.config.direction import DirectionConfig
from derta.config.model import ModelConfig
from derta.direction.find import AllFiltered, find_direction, mean_difference
from derta.direction.prompts import Side, refusal_start_ids
from derta.direction.selection import Candidate
from derta.errors import InputError
from derta.models.target import TargetModel, load_target
from derta.residual.blocks import locate_blocks
from derta.residual.direction_files import Direction, load_direction

if TYPE_CHECKING:
    import torch

    Reference = Direction | torch.Tensor
    """Its direction; or, of a model without a valid one, [P, L, H] of its means."""

logger = logging.getLogger(__name__)


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
        return load_direction(name, width)
    other = load_target(replace(model, name_or_path=name, revision=None), device=target.model.device)
    if (there := locate_blocks(other.model).hidden_size) != width:
        raise InputError(
            f"direction.references: the residual stream of {name} has {there} components and this model's {width}: "
            "name a checkpoint of the same base"
        )
    refusal_ids = refusal_start_ids(other, config.refusal_texts, config.refusal_token_ids)
    try:
        search = find_direction(other, *sides, refusal_ids, config)
        if chosen := search.selection.chosen:
            return Direction(search.at(chosen), chosen.position, chosen.layer)
    except AllFiltered as error:  # it refuses nothing, so it has no refusal direction; the means are there all the same
        logger.info("reference %s: %s", name, error)
    return mean_difference(other, *sides, config)


def direction_of(reference: Reference, chosen: Candidate | None) -> Direction | None:
    """What is ablated in a model whose own direction was chosen at `chosen`; None where neither has a valid one."""
    if isinstance(reference, Direction):
        return reference
    if chosen is None or not bool((vector := reference[chosen.position, chosen.layer]).any()):
        return None
    return Direction(vector, chosen.position, chosen.layer)
