"""The search for a direction on one model (arXiv 2406.11717, sections 2.3 and 2.4).

    training prompts   --> direction[p, l] = mean(harmful) - mean(harmless) at position p and the input of layer l
    validation prompts --> three scores per direction --selection.py--> the chosen one

bypass: ablated, harmful prompts | induce: added at layer l, harmless prompts | KL: ablated, harmless prompts

Shapes: P positions from the end (the last is the prompt's last token), L layers, H hidden size.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from derta.config.direction import DirectionConfig
from derta.config.model import ModelConfig
from derta.direction.forward import PromptBatches, log_probabilities, mean_activations, mean_kl, metrics
from derta.direction.prompts import Side, prompt_ids, refusal_start_ids, template_positions
from derta.direction.selection import Candidate, Selection, select
from derta.errors import InputError
from derta.evaluation.records import Row
from derta.models.target import TargetModel, load_target
from derta.progress import progress
from derta.residual.blocks import locate_blocks
from derta.residual.direction_files import Direction, differences, load_direction
from derta.residual.interventions import activation_addition, directional_ablation, layerwise_ablation

Reference = Direction | torch.Tensor
"""The direction of another checkpoint; or, of a model without a valid one, [P, L, H] of its means."""

logger = logging.getLogger(__name__)

_LEAST = 1e-3  # of the first singular value: below it the survivors point nowhere new


class AllFiltered(InputError):
    """No prompt of a side and split passed the filter: the model refuses none of the harmful ones, or all harmless."""


@dataclass(frozen=True, slots=True)
class Search:
    """differences: [P, L, H] float64, unnormalised. kept: how many prompts of each side and split passed the filter.
    per_layer: the position whose directions, each ablated at its own layer, have the least bypass; among those with a
    KL within `selection.kl_max` where there are any."""

    differences: torch.Tensor
    candidates: list[Candidate]
    selection: Selection
    kept: dict[str, dict[str, int]]
    per_layer: int

    def at(self, place: Candidate) -> torch.Tensor:
        """The direction [H] of one place."""
        return self.differences[place.position, place.layer]

    @property
    def strongest(self) -> Candidate | None:
        """The candidate with the least bypass, where none is valid but some can be measured."""
        measured = [candidate for candidate in self.candidates if not candidate.unmeasured]
        return None if self.selection.chosen else min(measured, key=lambda candidate: candidate.bypass, default=None)


def find_direction(
    target: TargetModel, harmful: Side, harmless: Side, refusal_ids: Sequence[int], config: DirectionConfig
) -> Search:
    """Choose the direction whose removal does most to refusal and least to everything else.

    Raises:
        AllFiltered: all prompts of a side and split are filtered out.
        InputError: NaN activations or logits, no reachable blocks.
    """
    train, validation, kept = [], [], {}
    for side, refusing in ((harmful, True), (harmless, False)):
        train.append(_kept(target, side.name, side.train, refusing, refusal_ids, config))
        validation.append(_kept(target, side.name, side.validation, refusing, refusal_ids, config))
        kept[side.name] = {"train": train[-1].count, "validation": validation[-1].count}
    positions = _positions(target, harmful, harmless, config)
    found = differences(*(mean_activations(batches, positions) for batches in train))
    before = log_probabilities(validation[1])

    def ablated(intervention: AbstractContextManager[None]) -> tuple[float, float]:
        """Mean refusal metric of harmful prompts; mean KL of harmless ones."""
        with intervention:
            return fmean(metrics(validation[0], refusal_ids)), mean_kl(before, validation[1])

    model, layers = target.model, found.shape[1]
    candidates, per_layer = [], {}
    with progress(positions * layers, "candidate directions") as bar:
        for p in range(positions):
            for layer in range(layers):
                direction = found[p, layer]
                scores = (math.nan,) * 3
                if bool(direction.any()):
                    bypass, kl = ablated(directional_ablation(model, direction))
                    with activation_addition(model, direction, layer):
                        scores = (bypass, fmean(metrics(validation[1], refusal_ids)), kl)
                candidates.append(Candidate(p - positions, layer, *scores))
                bar.update(1)
            bypass, kl = ablated(layerwise_ablation(model, found[p]))
            per_layer[p - positions] = (kl > config.selection.kl_max, bypass)
    selection = select(candidates, layers, config.selection)
    return Search(found, candidates, selection, kept, min(per_layer, key=lambda p: per_layer[p]))


def _positions(target: TargetModel, harmful: Side, harmless: Side, config: DirectionConfig) -> int:
    return config.positions or template_positions(target.cutter, [*harmful.train, *harmless.train])


def load_reference(
    name: str, model: ModelConfig, target: TargetModel, sides: tuple[Side, Side], config: DirectionConfig
) -> Reference:
    """The direction of another checkpoint, to be applied to this one, for an attacker may have only the base. It is
    read from a file, or searched for with the same prompts in a model that is dropped again.

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
    refusal_ids = refusal_start_ids(other.tokenizer, config.refusal_texts, config.refusal_token_ids)
    try:
        search = find_direction(other, *sides, refusal_ids, config)
        if chosen := search.selection.chosen:
            return Direction(search.at(chosen), chosen.position, chosen.layer)
    except AllFiltered as error:  # it refuses nothing, so it has no refusal direction; the means are there all the same
        logger.info("reference %s: %s", name, error)
    return mean_difference(other, *sides, config)


def direction_of(reference: Reference, chosen: Candidate | None) -> Direction | None:
    """What is ablated in a model whose own direction was chosen at `chosen`. A reference without a valid one (a base
    that refuses nothing) gives its difference of means there; None where neither has a valid one."""
    if isinstance(reference, Direction):
        return reference
    if chosen is None or not bool((vector := reference[chosen.position, chosen.layer]).any()):
        return None
    return Direction(vector, chosen.position, chosen.layer)


def mean_difference(target: TargetModel, harmful: Side, harmless: Side, config: DirectionConfig) -> torch.Tensor:
    """[P, L, H] from all training prompts, whatever the model says to them: for models that refuse nothing."""
    positions = _positions(target, harmful, harmless, config)
    prompts = (prompt_ids(target, side.train) for side in (harmful, harmless))
    return differences(*(mean_activations(PromptBatches(target, ids, config.batch_size), positions) for ids in prompts))


def orthogonal_directions(chosen: torch.Tensor, others: torch.Tensor, most: int) -> torch.Tensor:
    """Orthonormal rows [n, H] in float64, n <= most: chosen / |chosen| first, then the principal directions of the
    unit vectors along `others` [m, H] after the chosen one is taken out of them, the largest first."""
    first = chosen.double() / chosen.double().norm()
    units = others.double() / others.double().norm(dim=1, keepdim=True)
    rest = units - (units @ first)[:, None] * first
    _, sizes, rows = torch.linalg.svd(rest, full_matrices=False)
    found = [first, *(row for row, size in zip(rows, sizes, strict=True) if size > _LEAST)]
    return torch.stack(found[:most])


def _kept(
    target: TargetModel,
    side: str,
    rows: Sequence[Row],
    refusing: bool,
    refusal_ids: Sequence[int],
    config: DirectionConfig,
) -> PromptBatches:
    """The prompts that pass the filter: those whose refusal metric is above zero where `refusing`, below otherwise."""
    prompts = prompt_ids(target, rows)
    batches = PromptBatches(target, prompts, config.batch_size)
    if not config.filter_prompts:
        return batches
    values = metrics(batches, refusal_ids)
    kept = [prompt for prompt, value in zip(prompts, values, strict=True) if (value > 0) is refusing]
    if not kept:
        raise AllFiltered(
            f"all {len(rows)} {side} prompts of a split are filtered out: by its first token the model refuses "
            f"{'none' if refusing else 'all'} of them, so there is nothing to find a refusal direction in; check "
            "direction.refusal_texts, give more prompts, or look all the same with direction.filter_prompts=false"
        )
    return PromptBatches(target, kept, config.batch_size)
