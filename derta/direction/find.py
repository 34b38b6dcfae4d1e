"""The search for a direction on one model: prompts -> means -> candidates -> selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from derta.config.direction import DirectionConfig
from derta.direction.candidates import score_candidates
from derta.direction.forward import AllFiltered, PromptBatches, mean_activations, metrics
from derta.direction.prompts import Side, template_positions
from derta.direction.selection import Candidate, Selection, select
from derta.residual.blocks import locate_blocks
from derta.residual.direction_files import differences

if TYPE_CHECKING:
    import torch

    from derta.models.target import TargetModel


@dataclass(frozen=True, slots=True)
class Search:
    """differences: [P, L, H] float64, unnormalised; P positions from the end, the last token last. kept: how many
    prompts of each side and split passed the filter."""

    differences: torch.Tensor
    candidates: list[Candidate]
    selection: Selection
    kept: dict[str, dict[str, int]]

    def at(self, position: int, layer: int) -> torch.Tensor:
        """The direction [H] of one place."""
        return self.differences[position, layer]


def find_direction(
    target: TargetModel, harmful: Side, harmless: Side, refusal_ids: Sequence[int], config: DirectionConfig
) -> Search:
    """Choose the direction whose removal does most to refusal and least to everything else.

    Raises:
        AllFiltered: all prompts of a side and split are filtered out.
        InputError: NaN activations or logits, no reachable blocks.
    """
    layers = len(locate_blocks(target.model))
    rows = [*harmful.train, *harmless.train]
    positions = config.positions or template_positions(target.cutter, rows)
    kept: dict[str, dict[str, int]] = {}
    means, validation = {}, {}
    for side, refusing in ((harmful, True), (harmless, False)):
        train = PromptBatches(target, _ids(target, side.train), config.batch_size)
        means[side.name] = mean_activations(
            train, positions, refusal_ids, refusing=refusing if config.filter_prompts else None
        )
        validation[side.name] = _filtered(target, side, refusal_ids, config, refusing)
        kept[side.name] = {"train": means[side.name].kept, "validation": validation[side.name].count}
    found = differences(means["harmful"].mean, means["harmless"].mean)
    candidates = score_candidates(target.model, found, validation["harmful"], validation["harmless"], refusal_ids)
    return Search(found, candidates, select(candidates, layers, config.selection), kept)


def mean_difference(
    target: TargetModel, harmful: Side, harmless: Side, refusal_ids: Sequence[int], positions: int, batch_size: int
) -> torch.Tensor:
    """[P, L, H] from all training prompts, whatever the model says to them: for models that refuse nothing."""
    means: list[Any] = []
    for side in (harmful, harmless):
        batches = PromptBatches(target, _ids(target, side.train), batch_size)
        means.append(mean_activations(batches, positions, refusal_ids).mean)
    return differences(means[0], means[1])


def _filtered(
    target: TargetModel, side: Side, refusal_ids: Sequence[int], config: DirectionConfig, refusing: bool
) -> PromptBatches:
    prompts = _ids(target, side.validation)
    batches = PromptBatches(target, prompts, config.batch_size)
    if not config.filter_prompts:
        return batches
    values = metrics(batches, refusal_ids)
    kept = [prompt for prompt, value in zip(prompts, values, strict=True) if (value > 0) is refusing]
    if not kept:
        raise AllFiltered(
            f"all {len(prompts)} {side.name} validation prompts are filtered out: by its first token the model "
            f"{'refuses none' if refusing else 'refuses all'} of them; check direction.refusal_texts, give more "
            "prompts, or look all the same with direction.filter_prompts=false"
        )
    return PromptBatches(target, kept, config.batch_size)


def _ids(target: TargetModel, rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    return [target.cutter.prompt_ids(row["prompt"]) for row in rows]
